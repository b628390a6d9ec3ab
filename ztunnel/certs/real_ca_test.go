// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	caserver "github.com/culvert-mesh/culvert/identity/server"
)

// anyone takes every token for one of node-1.
type anyone struct{}

func (anyone) Attest(context.Context, string) (caserver.Caller, error) {
	return caserver.Caller{ServiceAccount: identity.ServiceAccount{Namespace: "culvert-system", Name: "ztunnel"}, Node: "node-1", PodUID: "u"}, nil
}

// Node and CA as they are: 150 identities in two requests, one by one where there is no
// pod, and the bundle by a stream.
func TestANodeAndTheRealCAUnderstandEachOther(t *testing.T) {
	authority := newCA(t, td)
	placement := caserver.NewPlacement()
	var pods []caserver.Running
	for n := range 150 {
		pods = append(pods, caserver.Running{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: service(n).Path()[len("/ns/shop/sa/"):]}, UID: "u", DNSNames: []string{"web.shop.svc"}})
	}
	placement.Replace(pods, nil)
	ca, cfg := serveReal(t, caserver.Config{CA: authority, Placement: placement})
	r := run(t, Config{TTL: time.Hour, Node: "node-1"}, nil, dial(t, cfg))
	r.Store.mu.Lock() // so that they are due together
	for n := range 150 {
		r.entries[service(n)] = &entry{id: service(n), holds: 1, due: time.Now(), changed: make(chan struct{})}
	}
	r.Store.mu.Unlock()
	t.Cleanup(r.Hold(web)) // of no pod
	waitFor(t, "150 certificates", func() bool { return r.Stats().Held[Valid] == 150 })
	waitFor(t, "why there is none for the other", func() bool { return r.Certificate(web).Error != "" })
	if got := r.leaf(service(0)).DNSNames; !slices.Equal(got, []string{"web.shop.svc"}) {
		t.Errorf("its DNS names are %v", got)
	}
	generation, roots := authority.Bundle()
	waitFor(t, "the bundle", func() bool {
		f := r.Following()
		return f.Generation == generation && f.SHA256 == hexOf(identity.BundleHash(roots)) && f.Connected
	})
	waitFor(t, "the ack", func() bool { return ca.Acks()["node-1"].Generation == generation })
}

// serveReal has a CA that takes every token serve until the test ends.
func serveReal(t *testing.T, cfg caserver.Config) (*caserver.Server, ClientConfig) {
	t.Helper()
	cfg.Attestor, cfg.DNSNames, cfg.Log = anyone{}, []string{caName}, quiet
	ca, err := caserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ca.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client := files(t, cfg.CA)
	client.Address = ln.Addr().String()
	return ca, client
}

// A000-3: a node that asks for no lifetime gets what an annotation says, also above what
// the CA gives by itself, and renews by that. One that asks for an hour, as each did
// before, gets no more than it asked for.
func TestAnAnnotationMayLengthenALifetime(t *testing.T) {
	authority, sa := newCA(t, td), identity.ServiceAccount{Namespace: "shop", Name: "web"}
	placement, accounts := caserver.NewPlacement(), caserver.NewAccounts(quiet)
	placement.Replace([]caserver.Running{{Node: "node-1", ServiceAccount: sa, UID: "u"}}, nil)
	accounts.Replace(map[identity.ServiceAccount]caserver.Account{sa: {UID: "sa", TTL: "2h"}}, nil, "istio-system")
	_, cfg := serveReal(t, caserver.Config{CA: authority, Placement: placement, Accounts: accounts, TTL: time.Hour})
	for _, row := range []struct{ asked, want time.Duration }{{0, 2 * time.Hour}, {time.Hour, time.Hour}} {
		r := run(t, Config{TTL: row.asked, Node: "node-1"}, nil, dial(t, cfg))
		hold(t, r, web)
		waitFor(t, "a certificate", func() bool { return r.Stats().Held[Valid] == 1 })
		life, due := time.Until(r.leaf(web).NotAfter), time.Until(r.due(web))
		if life > row.want || life < row.want-time.Minute {
			t.Errorf("asked for %v: it lasts %v, want %v", row.asked, life, row.want)
		}
		if due < fraction(row.want, identity.RenewFrom)-time.Minute || due > fraction(row.want, identity.RenewTo) {
			t.Errorf("asked for %v: it is renewed after %v", row.asked, due)
		}
	}
}

// strange knows the service, but not its Sign.
type strange struct {
	pusher
	asked int
}

func (s *strange) Sign(context.Context, *identityv1.SignRequest) (*identityv1.SignResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return nil, status.Error(codes.Unimplemented, "unknown method")
}

func (s *strange) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestAConnectionIsAskedOnceWhetherItKnowsMoreThanIstiosProtocol(t *testing.T) {
	authority := newCA(t, td)
	s := &strange{pusher: pusher{next: make(chan struct{})}}
	w := &wire{ca: authority, signer: s}
	addr, _ := serve(t, w, "127.0.0.1:0")
	cfg := files(t, authority)
	cfg.Address = addr
	c := dial(t, cfg)
	for range 5 {
		if _, err := issue(t, c); err != nil {
			t.Fatal(err)
		}
	}
	connections := 2 // an address that is alone has two places
	before := s.times()
	if before < 1 || before > connections {
		t.Errorf("asked %d times", before)
	}
	// Not for ever.
	for _, r := range c.replicas.open {
		r.istioUntil.Store(time.Now().Add(-time.Second).UnixNano())
	}
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	if more := s.times() - before; more < 1 || more > connections { // on a slow machine the other is asked, too
		t.Errorf("asked %d times more after a while", more)
	}
}
