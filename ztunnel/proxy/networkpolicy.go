// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// inMesh is a connection between two pods of the mesh as the NetworkPolicies of one of them
// see it. The zero one is no such connection. Until admitted is true, only the goroutine that
// admits the connection uses it.
type inMesh struct {
	question networkpolicy.Question                // with both ends as they were when it was admitted
	id       spiffeid.ID                           // of a peer that was not known then
	admitted atomic.Bool                           // from now on Recheck asks, and question stays as it is
	judged   atomic.Pointer[networkpolicy.Grounds] // nil: not by policies that are enforced
}

// sourceWithin is how long a connection waits for the registry to learn of the pod that it
// comes from, if NetworkPolicies refuse what nobody is known to have sent. The pod network
// drops such a SYN, which TCP sends again.
const sourceWithin = 2 * time.Second

// arrives and leaves set what NetworkPolicies are asked of c.
func (c *connection) arrives(self *workload.Workload, peer spiffeid.ID, dst netip.AddrPort) {
	c.inMesh.id = peer
	c.inMesh.question = networkpolicy.Question{Direction: networkpolicy.Ingress, Self: self, Peer: c.src.workload, Addr: c.src.addr.Addr(), Port: dst.Port()}
}

func (c *connection) leaves(self *workload.Workload, d *workload.Destination) {
	c.inMesh.question = networkpolicy.Question{Direction: networkpolicy.Egress, Self: self, Peer: podOf(d.Peer), Addr: d.Target.Addr(), Port: d.Target.Port()}
}

// podOf is a destination as NetworkPolicies see it: a workload of another trust domain is no
// pod of this cluster, and has an address only.
func podOf(peer *workload.Workload) *workload.Workload {
	if peer.IsForeign() {
		return nil
	}
	return peer
}

// askNetwork asks the NetworkPolicies in force, of both ends as they are now: their labels
// may have changed. A peer that is gone is what it was.
func (p *Pod) askNetwork(c *connection) (*policy.Denied, networkpolicy.Mode) {
	if p.NetworkPolicies == nil || c.inMesh.question.Self == nil {
		return nil, networkpolicy.Off
	}
	q := p.ends(c, p.Registry.SharedByUID)
	no, mode, grounds := p.NetworkPolicies.Judge(&q)
	if mode != networkpolicy.Enforce {
		c.inMesh.judged.Store(nil) // else it would keep the policies of now for as long as it is open
		return no, mode
	}
	// If policies or labels change in between, Recheck finds others.
	kept := grounds
	c.inMesh.judged.Store(&kept)
	return no, mode
}

// ends is what NetworkPolicies are asked of c, with both ends as they are now.
func (p *Pod) ends(c *connection, byUID func(string) *workload.Workload) networkpolicy.Question {
	q := c.inMesh.question
	if now := p.whoWeAre(); now != nil {
		q.Self = now
	}
	if q.Peer != nil {
		q.Peer = cmp.Or(byUID(q.Peer.UID), q.Peer)
	} else if peer := p.Registry.SharedByAddr(q.Addr); peer != nil && peer.ID == c.inMesh.id {
		q.Peer = peer
	}
	return q
}

// admitNetwork returns an error if the NetworkPolicies of the pod refuse c and are enforced.
// If they only warn, the record and the metrics say so. Recheck leaves c alone until it is
// admitted: a source that is waited for would be refused.
func (p *Pod) admitNetwork(c *connection) error {
	if p.NetworkPolicies == nil {
		return nil
	}
	no, mode := p.askNetwork(c)
	if no != nil && mode == networkpolicy.Enforce && c.inMesh.question.Peer == nil && c.direction == inbound {
		var err error
		if no, mode, err = p.awaitSource(c); err != nil {
			return err
		}
	}
	if no == nil || mode != networkpolicy.Enforce {
		c.inMesh.question = p.ends(c, p.Registry.SharedByUID)
		c.inMesh.admitted.Store(true)
		no, mode = p.askNetwork(c) // Recheck did not ask about what has changed before
	}
	if no == nil {
		return nil
	}
	p.Metrics.NetworkPolicyRefused(c.inMesh.question.Direction.String(), string(mode), c.inMesh.question.Self.Namespace)
	if mode == networkpolicy.Enforce {
		return denied(no)
	}
	c.warn(fieldNetworkWarn, no.Error())
	return nil
}

// awaitSource asks again with each snapshot, for a while. Who waits is bounded, for each of
// them holds memory and asks: an error says that the pod's share, or the peer's, is used up.
func (p *Pod) awaitSource(c *connection) (no *policy.Denied, mode networkpolicy.Mode, err error) {
	if err := c.take(p.Share.waiting()); err != nil {
		return nil, networkpolicy.Off, err
	}
	defer c.give(p.Share.waiting())
	c.endTurn()
	deadline := time.NewTimer(sourceWithin)
	defer deadline.Stop()
	for {
		changed := p.Registry.Changed()
		if no, mode = p.askNetwork(c); no == nil || mode != networkpolicy.Enforce {
			return no, mode, nil
		}
		if w, known := p.Registry.ByAddr(c.src.addr.Addr()); known && w.ID == c.inMesh.id {
			no, mode = p.askNetwork(c)
			return no, mode, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			return no, mode, nil
		case <-c.ctx.Done():
			return no, mode, nil
		}
	}
}

// recheckNetwork asks about the open connections that NetworkPolicies may judge otherwise
// than before: other policies concern the pod, or what these ask for of the other end has
// changed. Others cost a comparison.
func (p *Pod) recheckNetwork() {
	self := p.whoWeAre()
	if p.NetworkPolicies == nil || self == nil {
		return
	}
	if !p.NetworkPolicies.Concern(self).Enforces() {
		return // nothing is refused, and another mode makes another Concern
	}
	byUID := p.peersNow()
	for c := range p.live.all(inbound, outbound) {
		if !c.inMesh.admitted.Load() || c.inMesh.question.Self == nil {
			continue
		}
		q := p.ends(c, byUID)
		if judged := c.inMesh.judged.Load(); judged != nil && *judged == p.NetworkPolicies.Grounds(&q) {
			continue
		}
		if no, mode := p.askNetwork(c); no != nil && mode == networkpolicy.Enforce {
			c.end(no)
		}
	}
}

// peersNow asks the registry once for each peer, however many connections that has.
func (p *Pod) peersNow() func(uid string) *workload.Workload {
	asked := map[string]*workload.Workload{}
	return func(uid string) *workload.Workload {
		w, known := asked[uid]
		if !known {
			w = p.Registry.SharedByUID(uid)
			asked[uid] = w
		}
		return w
	}
}

// blockers names the NetworkPolicies that admit no tunnel from self to peer, which the pod
// network enforces whatever the mesh does.
func (p *Pod) blockers(self, peer *workload.Workload, at netip.Addr) (names []string) {
	if p.NetworkPolicies == nil {
		return nil
	}
	from := at
	for _, addr := range self.Addrs {
		if addr.Is4() == at.Is4() {
			from = addr
		}
	}
	asked := []networkpolicy.Question{{Direction: networkpolicy.Egress, Self: self, Peer: podOf(peer), Addr: at, Port: workload.HBONEPort}}
	if !peer.IsForeign() { // no policy of ours is about what arrives there
		asked = append(asked, networkpolicy.Question{Direction: networkpolicy.Ingress, Self: peer, Peer: self, Addr: from, Port: workload.HBONEPort})
	}
	for _, q := range asked {
		if no, _ := p.NetworkPolicies.Ask(&q); no != nil {
			names = append(names, no.Error())
		}
	}
	return names
}

// unreached explains why a tunnel to d was not opened. Of one that nobody answered it names
// the NetworkPolicies that may be why.
func (o Outbound) unreached(self *workload.Workload, d *workload.Destination, err error) error {
	err = explained(err)
	if !errors.Is(err, hbone.ErrDial) {
		return err
	}
	if names := o.blockers(self, d.Peer, d.Target.Addr()); len(names) > 0 {
		return &blocked{err, strings.Join(names, "; ")}
	}
	return err
}

// blocked is err with what may be its reason.
type blocked struct {
	error
	by string
}

func (b *blocked) Error() string {
	return b.error.Error() + ": not admitted to port 15008 by " + b.by
}
func (b *blocked) Unwrap() error { return b.error }
