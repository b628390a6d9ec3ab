// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestAPatternIsTheSameHoweverItIsCut(t *testing.T) {
	p := pattern(7)
	whole := make([]byte, 100)
	p.fill(whole, 0)
	for offset := range whole {
		part := make([]byte, len(whole)-offset)
		p.fill(part, offset)
		if !bytes.Equal(part, whole[offset:]) {
			t.Fatalf("from %d on it is another", offset)
		}
	}
}

func TestARefusalIsWhatItsSenderExpectsOfThePeer(t *testing.T) {
	for name, ip := range map[string][]byte{
		"IPv4": append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, protoTCP, 0, 0}, 10, 0, 0, 1, 10, 0, 0, 2),
		"IPv6": append(append([]byte{0x60, 0, 0, 0, 0, 20, protoTCP, 64}, make([]byte, 31)...), 1),
	} {
		tcp := make([]byte, 20)
		binary.BigEndian.PutUint16(tcp, 1111)
		binary.BigEndian.PutUint16(tcp[2:], 2222)
		binary.BigEndian.PutUint32(tcp[8:], 12345) // acknowledged
		tcp[12] = 5 << 4
		sent := packet(append(bytes.Clone(ip), tcp...))
		r := sent.refusal()
		h := r[r.tcp():]
		if to, seq := binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:]); to != 1111 || seq != 12345 || !r.has(flagRST) {
			t.Errorf("%s: to port %d, sequence number %d", name, to, seq)
		}
		f, _ := sent.flow()
		if g, ok := r.flow(); !ok || f != g {
			t.Errorf("%s: it is of flow %v, not %v", name, g, f)
		}
	}
}

func TestNoTwoAppsWaitForEachOther(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		p := newPlan(rng, megabyte)
		client, server := p.parts[0], p.parts[1]
		if client.first > 0 && server.first > 0 || client.first > server.send || server.first > client.send {
			t.Fatalf("client %v, server %v", client, server)
		}
	}
}
