// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

var (
	td    = spiffeid.RequireTrustDomainFromString("cluster.local")
	self  = spiffeid.RequireFromString("spiffe://cluster.local/ns/culvert-system/sa/ztunnel")
	web   = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	db    = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

func newCA(t testing.TB, domain spiffeid.TrustDomain) *ca.CA {
	t.Helper()
	c, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: domain})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// entry is a registration entry.
type entry struct {
	id        spiffeid.ID
	selectors []selector
}

// agent is SPIRE's, as far as a ztunnel sees it: two sockets, entries, a CA.
type agent struct {
	delegatedv1.UnimplementedDelegatedIdentityServer
	workload.UnimplementedSpiffeWorkloadAPIServer
	dir string

	mu       sync.Mutex // guards what follows
	ca       *ca.CA
	domain   spiffeid.TrustDomain
	self     spiffeid.ID // whom it takes the ztunnel for; zero: nobody
	delegate bool        // authorized_delegates names that
	roots    []*x509.Certificate
	entries  []entry
	svids    map[int]*delegatedv1.X509SVIDWithKey // by the index of the entry
	changed  chan struct{}                        // closed and replaced when something of it changed
	open     map[string]int                       // streams by the SVIDs' identities that they give

	stop func()
}

func newAgent(t *testing.T, authority *ca.CA, entries ...entry) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "spire") // short: it is a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{
		dir: dir, ca: authority, domain: authority.TrustDomain(), self: self, delegate: true, roots: authority.Roots(), entries: entries,
		svids: map[int]*delegatedv1.X509SVIDWithKey{}, changed: make(chan struct{}), open: map[string]int{},
	}
	a.start(t)
	t.Cleanup(func() { a.stop() })
	return a
}

// start opens the sockets; stop closes them, and all streams.
func (a *agent) start(t *testing.T) {
	t.Helper()
	var stops []func()
	for name, register := range map[string]func(*grpc.Server){
		"agent.sock": func(s *grpc.Server) { workload.RegisterSpiffeWorkloadAPIServer(s, a) },
		"admin.sock": func(s *grpc.Server) { delegatedv1.RegisterDelegatedIdentityServer(s, a) },
	} {
		ln, err := net.Listen("unix", filepath.Join(a.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		register(server)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = server.Serve(ln)
		}()
		stops = append(stops, func() {
			server.Stop()
			<-done
		})
	}
	a.stop = sync.OnceFunc(func() {
		for _, stop := range stops {
			stop()
		}
	})
}

// set changes the agent, and tells its streams.
func (a *agent) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// rotate replaces the SVIDs of all entries.
func (a *agent) rotate() { a.set(func() { clear(a.svids) }) }

// streams is how many streams give an SVID of id.
func (a *agent) streams(id spiffeid.ID) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open[id.String()]
}

func (a *agent) allowed() error {
	switch {
	case a.self.IsZero():
		return status.Error(codes.PermissionDenied, "no identity issued")
	case !a.delegate:
		return status.Error(codes.PermissionDenied, "caller not configured as an authorized delegate")
	}
	return nil
}

// SubscribeToX509SVIDs is the Delegated Identity API's.
func (a *agent) SubscribeToX509SVIDs(r *delegatedv1.SubscribeToX509SVIDsRequest, stream grpc.ServerStreamingServer[delegatedv1.SubscribeToX509SVIDsResponse]) error {
	for {
		a.mu.Lock()
		err := a.allowed()
		answer := &delegatedv1.SubscribeToX509SVIDsResponse{}
		var given []string
		for i, e := range a.entries {
			if e.fits(r.GetSelectors()) {
				answer.X509Svids = append(answer.X509Svids, a.svid(i))
				given = append(given, e.id.String())
			}
		}
		for _, id := range given {
			a.open[id]++
		}
		changed := a.changed
		a.mu.Unlock()
		if err == nil {
			err = stream.Send(answer)
		}
		if err == nil {
			select {
			case <-changed:
			case <-stream.Context().Done():
				err = stream.Context().Err()
			}
		}
		a.mu.Lock()
		for _, id := range given {
			a.open[id]--
		}
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (e entry) fits(known []*delegatedv1.Selector) bool {
	return !slices.ContainsFunc(e.selectors, func(s selector) bool {
		return !slices.ContainsFunc(known, func(k *delegatedv1.Selector) bool { return k.GetType() == "k8s" && k.GetValue() == string(s) })
	})
}

// svid is that of the entry, made if there is none; a.mu is held.
func (a *agent) svid(i int) *delegatedv1.X509SVIDWithKey {
	if a.svids[i] == nil {
		a.svids[i] = mint(a.ca, a.entries[i].id)
	}
	return a.svids[i]
}

func mint(authority *ca.CA, id spiffeid.ID) *delegatedv1.X509SVIDWithKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	chain, err := authority.Certify(key.Public(), id, time.Hour)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	one := &delegatedv1.X509SVIDWithKey{X509SvidKey: der, X509Svid: &delegatedv1.X509SVID{
		Id: &delegatedv1.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}}}
	for _, cert := range chain {
		one.X509Svid.CertChain = append(one.X509Svid.CertChain, cert.Raw)
	}
	return one
}

// SubscribeToX509Bundles is the Delegated Identity API's.
func (a *agent) SubscribeToX509Bundles(_ *delegatedv1.SubscribeToX509BundlesRequest, stream grpc.ServerStreamingServer[delegatedv1.SubscribeToX509BundlesResponse]) error {
	for {
		a.mu.Lock()
		err := a.allowed()
		var all []byte
		for _, root := range a.roots {
			all = append(all, root.Raw...)
		}
		answer := &delegatedv1.SubscribeToX509BundlesResponse{CaCertificates: map[string][]byte{a.domain.IDString(): all}}
		changed := a.changed
		a.mu.Unlock()
		if err == nil {
			err = stream.Send(answer)
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// FetchX509SVID is the Workload API's.
func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.self.IsZero() {
		return status.Error(codes.PermissionDenied, "no identity issued")
	}
	own := mint(a.ca, a.self)
	return stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: a.self.String(), X509Svid: slices.Concat(own.GetX509Svid().GetCertChain()...), X509SvidKey: own.GetX509SvidKey(), Bundle: a.roots[0].Raw}}})
}

// node is a Store whose issuer is SPIRE's agent.
type node struct {
	*certs.Store
	client *Client

	mu      sync.Mutex // guards what follows
	pods    map[spiffeid.ID][]Pod
	rotated int
	bundles int
}

func newNode(t *testing.T, a *agent) *node {
	t.Helper()
	n := &node{pods: map[spiffeid.ID][]Pod{}}
	n.start(t, filepath.Join(a.dir, "agent.sock"), filepath.Join(a.dir, "admin.sock"))
	return n
}

func (n *node) start(t *testing.T, workloadSocket, adminSocket string) {
	t.Helper()
	var err error
	n.client, err = New(Config{
		WorkloadSocket: workloadSocket, AdminSocket: adminSocket, TrustDomain: td, Node: "node-1",
		Pods: func(id spiffeid.ID) []Pod {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.pods[id]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Store = certs.New(certs.Config{
		TrustDomain: td, Node: "node-1", Issuer: n.client, Log: quiet,
		OnRotate: func(spiffeid.ID) { n.count(&n.rotated) }, OnBundle: func() { n.count(&n.bundles) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := n.client.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (n *node) count(what *int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*what++
}

func (n *node) place(id spiffeid.ID, pods ...Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[id] = pods
}

func (n *node) rotations() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rotated
}

// waitFor asks again until it is so: what happens comes over sockets.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute) // a machine may stall
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-again.C:
		}
	}
}
