// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// member is one pod sandbox in the mesh: all that was made for it.
type member struct {
	sandbox
	id         spiffeid.ID
	declared   []uint16 // TCP ports that its containers listen on
	probePorts []uint16
	life       context.Context // ends when the sandbox is deleted
	adopted    bool            // steered before this enrolment: stays so, and refused, if that fails

	ns        *netns.NS
	changes   *netns.Changes
	addresses addresses
	unfollow  func() // returns when the netns is not followed any more
	listeners redirect.Listeners
	release   func() // of the SVID
	carrier   *carrier

	forwarding forwarding
}

// A membership is two lists of steps, done in this order and undone in reverse:
// whatever the kernel hands over must find somebody listening.

// carrying is what a pod needs so that its connections are carried. It is
// undone when the last of them has ended.
func (p *Pods) carrying() []step[*member] {
	return []step[*member]{
		{"open netns", p.openNetns, p.closeNetns},
		{"listen", p.listen, closeListeners},
		{"route inner legs and stand-ins", p.route, p.unroute},
		{"hold certificate", p.hold, releaseCertificate},
		{"serve", p.serve, p.stopServing},
	}
}

// steering hands the pod's connections to us. It is undone at once when the
// pod leaves the mesh. Inbound comes before outbound, so that a pod which can
// talk can also be answered. Last, other pods of the node may reach it without
// a tunnel.
func (p *Pods) steering() []step[*member] {
	return []step[*member]{
		{"steer inbound", p.steerInbound, p.unsteerInbound},
		{"steer outbound", p.steerOutbound, p.unsteerOutbound},
		{"guard forwarding", p.guardForwarding, p.unguardForwarding},
		{"make known to its node", p.makeKnown, p.forgetAddrs},
		{"follow its netns", p.follow, p.stopFollowing},
	}
}

// openNetns checks that the netns is still what was recorded, and takes the
// addresses in it. It subscribes to changes before it looks.
//
// That the netns is the pod's was proved when it was recorded, by an address that
// the plugin had given it. It may have others by now: whose netns it is says the
// cookie. With none that is not another pod's, the pod waits.
func (p *Pods) openNetns(ctx context.Context, m *member) (err error) {
	if m.ns, err = netns.Open(m.Netns); err != nil {
		return err
	}
	if m.ns.Cookie() != m.Cookie {
		m.ns.Close()
		return fmt.Errorf("%s is another netns than the one that was recorded", m.Netns)
	}
	if m.changes, err = m.ns.Changes(); err != nil {
		m.ns.Close()
		return err
	}
	if _, err = p.mayHold(m.ns, nil); err == nil {
		err = p.look(m)
	}
	if err == nil && len(m.addresses.list()) == 0 {
		err = fmt.Errorf("%s holds none of the pod's addresses %v, and no other that is not another pod's", m.Netns, m.ips())
	}
	if err != nil {
		return errors.Join(err, p.closeNetns(ctx, m))
	}
	return nil
}

func (p *Pods) closeNetns(_ context.Context, m *member) error {
	p.leaveAddrs(m)
	m.changes.Close() // following has ended, or never began
	return m.ns.Close()
}

func (p *Pods) listen(ctx context.Context, m *member) (err error) {
	m.listeners, err = p.Datapath.Listen(ctx, m.ns, m.declared)
	return err
}

func closeListeners(_ context.Context, m *member) error {
	m.listeners.Close() // the proxies may have closed some before
	return nil
}

func (p *Pods) hold(_ context.Context, m *member) error {
	m.release = p.Certs.Hold(m.id) // fetched meanwhile: connections wait, the pod does not
	return nil
}

func releaseCertificate(_ context.Context, m *member) error {
	m.release()
	return nil
}

func (p *Pods) serve(_ context.Context, m *member) error {
	m.carrier = p.newCarrier(m)
	m.carrier.start(m.life, func(err error) {
		p.Log.Error("serving a pod", logPod, m.sandbox.String(), logError, err)
	})
	// Before it is steered: from its first connection on, it must hear of
	// changed policies and certificates.
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving[m] = struct{}{}
	return nil
}

// inFlight is how long a connection that was steered a moment ago may take to
// be established: a listener that closes resets it.
const inFlight = time.Second

// stopServing takes what is still on its way, waits for open connections to
// end by themselves until ctx is done, then ends them.
func (p *Pods) stopServing(ctx context.Context, m *member) error {
	select {
	case <-time.After(inFlight):
	case <-ctx.Done():
	}
	m.carrier.finish(ctx)
	outbound, inbound := m.carrier.counts()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.serving, m)
	p.ended.Outbound.Add(outbound)
	p.ended.Inbound.Add(inbound)
	return nil
}

func (p *Pods) steerInbound(_ context.Context, m *member) error {
	return p.Datapath.SteerInbound(m.steered())
}

func (p *Pods) unsteerInbound(_ context.Context, m *member) error {
	if m.adopted {
		return nil
	}
	return p.Datapath.UnsteerInbound(m.Cookie)
}

// steerOutbound routes what came since the pod was routed: whoever has it fail for that
// has the pod refused until the next try.
func (p *Pods) steerOutbound(_ context.Context, m *member) error {
	const tries = 3
	var err error
	for range tries {
		if err = p.Datapath.SteerOutbound(m.steered()); !errors.Is(err, redirect.ErrNotRouted) {
			return err
		}
		if err := p.Datapath.Route(m.ns, m.addresses.list()); err != nil {
			return err
		}
	}
	return err
}

func (p *Pods) unsteerOutbound(_ context.Context, m *member) error {
	if m.adopted {
		return nil
	}
	return p.Datapath.UnsteerOutbound(m.Cookie)
}

func (m *member) steered() redirect.Sandbox {
	return redirect.Sandbox{NS: m.ns, Addrs: m.addresses.list(), ProbePorts: m.probePorts, Listeners: m.listeners}
}

// update brings an enrolled pod up to what its object says now.
func (m *member) update(d *redirect.Datapath, w workload.Workload) error {
	if w.ID != m.id {
		return errors.New("its ServiceAccount changed, which Kubernetes does not allow")
	}
	if slices.Equal(w.ProbePorts, m.probePorts) {
		return nil
	}
	if err := d.UpdateProbePorts(m.Cookie, w.ProbePorts); err != nil {
		return err
	}
	m.probePorts = w.ProbePorts
	return nil
}
