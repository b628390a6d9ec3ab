// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
)

// TakeFor takes one for a connection that arrives from a peer, or says why not. Of the
// pod's part, a peer has no more than quota.Generous times what is left: for other peers,
// and for what the pod's app opens.
func (p *Part) TakeFor(who peer) error {
	if err := p.Take(); err != nil || p == nil {
		return err
	}
	p.mu.Lock()
	held := p.peers[who] + 1
	rest := p.quota.Share(0) - (p.quota.Held() - held) // that nobody else has
	if held <= quota.Fair(rest, leastPart) {
		if p.peers == nil {
			p.peers = make(map[peer]int64)
		}
		p.peers[who] = held
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	p.Give()
	return fail(Limit, fmt.Errorf("%v has %d %s of pod %s, and %d are left for others: %w", who, held-1, p.of.name, p.pod, max(0, rest-held), errPeerShare))
}

// GiveFor gives back one that was taken for a peer.
func (p *Part) GiveFor(who peer) {
	if p == nil {
		return
	}
	p.mu.Lock()
	if p.peers[who]--; p.peers[who] == 0 {
		delete(p.peers, who)
	}
	p.mu.Unlock()
	p.Give()
}

var errPeerShare = fmt.Errorf("a peer has no more than %d times what is left of the pod's share", quota.Generous)

// String names a peer in errors.
func (p peer) String() string {
	if p.identity == "" {
		return p.addr.String()
	}
	return p.identity + " at " + p.addr.String()
}

// take takes one of what the pod may have, for the peer if the connection arrives.
func (c *connection) take(p *Part) error {
	if c.direction == outbound {
		return p.Take()
	}
	if !c.payer.addr.IsValid() {
		c.payer = c.peer() // as it is known now: the same must give back
	}
	return p.TakeFor(c.payer)
}

// give gives back what take took.
func (c *connection) give(p *Part) {
	if c.direction == outbound {
		p.Give()
		return
	}
	p.GiveFor(c.payer)
}
