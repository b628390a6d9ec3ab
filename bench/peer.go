// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
)

// The columns, in their order; external ones come after x/net.
const (
	direct    = "direct"       // no proxy
	ours      = "ours"         // ztunnel, two nodes, default flags
	oursStd   = "ours-std"     // the same with -tls-records=std
	oursAES   = "ours-aes256"  // the same built with -tags aes256: the cipher of Istio's ztunnel
	oursAESNI = "ours-aesni"   // the same on a CPU with AES-NI but no VAES
	oursPure  = "ours-purego"  // the same built with -tags purego
	relay     = "relay"        // two plain relays in Go, no crypto
	xnet      = "xnet"         // the reference: x/net/http2 and crypto/tls
	stunnel   = "stunnel"      //
	nginx     = "nginx"        // stream
	haproxy   = "haproxy"      // mode tcp
	wireguard = "wireguard-go" // over TUN
	sameNode  = "-same-node"   // behind a name: both pods on one node
	into      = "-to-"         // between names: the client's proxy and the server's
)

var peerNames = []string{direct, ours, ours + sameNode, oursStd, oursAES, oursAESNI, oursPure, relay, xnet, stunnel, nginx, haproxy, wireguard}

// peer is a column: a way from one pod to another.
type peer struct {
	name    string
	near    *place // the client's; nil where no row needs it
	far     *place
	client  *load.Worker
	server  *load.Worker
	to      netip.AddrPort // what the client dials to reach the server
	proxies []int          // processes on the way, with their children
	hops    int            // TCP connections from client to server
	crypto  bool           // seals and opens once
	mixed   bool           // the ends are of two makes
	brief   bool           // a variant of ours: bulk with 8 streams says what there is to say of it
	softirq bool           // much of its work is in no process
	sever   func() error   // resets its tunnels; nil: it has none that last
	resting int64          // resident memory of the proxies before the first row, in bytes
	about   []string       // what the table says of it

	gate    netip.AddrPort                        // where it takes HBONE tunnels; invalid: it does not
	tunnel  load.Credential                       // for the gate
	gateway int                                   // the process there
	mallocs func(context.Context) (uint64, error) // allocations so far of all proxies; nil: not known
}

// family is the proxies with the children they have by now.
func (p *peer) family() []int { return proc.Family(p.proxies...) }

// prove moves bytes each way and compares them: a column that loses some has no
// numbers. One that loses those of the second half after the first has ended
// says so.
func (p *peer) prove(ctx context.Context) error {
	const size = 4 << 20
	_, halves := p.client.Do(ctx, load.Order{Kind: load.Prove, To: p.to, Size: size})
	if halves == nil {
		return nil
	}
	if _, err := p.client.Do(ctx, load.Order{Kind: load.Prove, To: p.to, Size: size, Whole: true}); err != nil {
		return fmt.Errorf("prove that %s carries bytes as they are: %w; without a half-close: %w", p.name, halves, err)
	}
	p.about = append(p.about, "LOSES BYTES AFTER A HALF-CLOSE: "+halves.Error())
	return nil
}
