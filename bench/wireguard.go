// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"net/netip"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
	"github.com/culvert-mesh/culvert/bench/reference"
)

// inside are the addresses of the devices, of the network that RFC 2544 has for
// benchmarks.
var inside = [2]netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")}

// startWireGuard joins the plain pods by wireguard-go over TUN: what the client
// dials is the server's address inside.
func (w *world) startWireGuard(ctx context.Context) error {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		keys[i] = key
	}
	p := &peer{
		name: wireguard, to: netip.AddrPortFrom(inside[1], load.Port), hops: 1, crypto: true, softirq: true,
		about: []string{"no mesh: all of two nodes is one peer; ChaCha20-Poly1305 in UDP, MTU 1420; " +
			"in its CPU is all softirq of the machine, which has a part of the load's own"},
	}
	for i, at := range w.plain {
		process, err := at.pod.Start(wireguard, w.self, referenceCommand, "wireguard",
			"-private", hex.EncodeToString(keys[i].Bytes()), "-peer", hex.EncodeToString(keys[1-i].PublicKey().Bytes()),
			"-endpoint", w.plain[1-i].pod.IP4.String(), "-inside", inside[i].String(), "-far", inside[1-i].String())
		if err != nil {
			return err
		}
		// Both ends must be there before the first packet: a handshake that gets
		// no answer is tried again after 5 s.
		if err := await(ctx, process, "has a route", func() bool { return proc.RoutesBy(at.load.PID, reference.WireGuardDevice) }); err != nil {
			return err
		}
		p.proxies = append(p.proxies, process.PID())
	}
	w.add(p)
	return nil
}
