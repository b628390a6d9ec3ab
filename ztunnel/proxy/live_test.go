// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// change is a snapshot that lets nobody in who was refused: a policy that allows all
// comes, and the pod loses the labels that it selects.
type change struct {
	*bench
	registry *workload.Registry
}

func (c change) allow(policies ...policy.AuthorizationPolicy) {
	c.policy.Replace(policy.Objects{AuthorizationPolicies: policies})
}

func (c change) label(app string) {
	mesh := meshOf(1, 1)
	mesh.Workloads[1].Labels = workload.NewLabels(map[string]string{"app": app})
	c.registry.Replace(mesh)
}

var (
	allowsNobody = policy.AuthorizationPolicy{Object: policy.Object{Namespace: "shop", Name: "nobody"}, Action: policy.Allow}
	allowsToDB   = policy.AuthorizationPolicy{
		Object: policy.Object{Namespace: "shop", Name: "to-db", Selector: policy.Selector{"app": "db"}}, Action: policy.Allow, Rules: []policy.Rule{{}},
	}
)

func newChange(t *testing.T) change {
	registry := registryOf(meshOf(1, 1))
	c := change{newBench(t, registry, "db"), registry}
	inner := toEcho(t)
	c.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
	c.allow(allowsNobody)
	neighbour := pod("other", legacyAddr, true) // of which the same is said before and after
	if c.policy.Concern(neighbour) != c.policy.Concern(*c.whoWeAre()) {
		t.Fatal("it shares nothing")
	}
	c.Recheck()
	return c
}

// A snapshot's policies are in force before its labels. What the new policies say of the
// old labels was never written by anybody.
func TestWhatWasAdmittedAmidASnapshotIsAskedAgainAfterIt(t *testing.T) {
	c := newChange(t)
	to := c.serve(dbAddr, Passthrough{c.Pod}.Serve)
	expectRefused(t, legacyAddr, to)
	c.record(Denied)

	c.allow(allowsNobody, allowsToDB)
	client := greet(t, legacyAddr, to)
	c.label("other")
	c.Recheck()
	expectReset(t, client)
	has(t, c.record(PolicyChanged), map[string]any{"policy": "AuthorizationPolicy shop/nobody"})
	expectRefused(t, legacyAddr, to)
	c.record(Denied)
}

// As before, and all of the snapshot and of what is asked after it falls between the
// labels and the policies by which a new connection is judged.
func TestWhoIsJudgedByLabelsOfBeforeASnapshotIsJudgedAgain(t *testing.T) {
	c := newChange(t)
	self, snapshot := c.Self, func() {
		c.allow(allowsNobody, allowsToDB)
		c.label("other")
		c.Recheck()
	}
	conn := c.begin(t.Context(), inbound, netip.AddrPortFrom(legacyAddr, 1))
	c.label("db") // has it ask who we are
	c.Self = func() (workload.Workload, bool) {
		w, ok := self()
		if happens := snapshot; happens != nil {
			snapshot = nil
			happens()
		}
		return w, ok
	}
	w, _ := self()
	if err := c.admitTo(&w, conn, spiffeid.ID{}, netip.AddrPortFrom(dbAddr, 80)); err == nil {
		t.Error("it is let in, which neither the snapshot before nor the one after does")
	}
	conn.finish(nil)
}

// Before the first snapshot nobody knows the pod, so that no policy is passed over that has
// yet to come: a connection waits, and the first snapshot judges it.
func TestAConnectionBeforeTheFirstSnapshotIsJudgedByIt(t *testing.T) {
	for name, c := range map[string]struct {
		policies policy.Objects
		word     Word
	}{"it refuses": {strict(), Denied}, "it allows": {policy.Objects{}, OK}} {
		t.Run(name, func(t *testing.T) {
			registry := workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
			b := newBench(t, registry, "db")
			inner := toEcho(t)
			b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
			asked := make(chan struct{}, 100)
			self := b.Self
			b.Self = func() (workload.Workload, bool) { asked <- struct{}{}; return self() }
			client := connect(t, legacyAddr, b.serve(dbAddr, Passthrough{b.Pod}.Serve))
			for range 3 { // when it begins, and twice while it waits
				<-asked
			}
			b.policy.Replace(c.policies) // in the order of every snapshot
			registry.Replace(meshOf(1, 1))
			client.CloseWrite()
			if c.word == OK {
				expectEOF(t, client)
			} else {
				expectReset(t, client)
			}
			b.record(c.word)
		})
	}
}

// A tunnel's peer can ask again, so that it is told at once.
func TestATunnelledConnectionBeforeTheFirstSnapshotIsRefused(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) { s.db.Self = func() (workload.Workload, bool) { return workload.Workload{}, false } })
	expectRefused(t, webAddr, s.to)
	s.db.record(Identity)
	s.db.nobodyDialled()
}
