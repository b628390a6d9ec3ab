// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// apart is how much later than the first the second replica sees what is stored.
const apart = time.Minute

// lateStore shows what was in the store when it was last asked a minute before.
type lateStore struct {
	*ca.Memory
	mu    sync.Mutex
	files ca.Files
	at    time.Time
}

func (l *lateStore) Read(ctx context.Context) (ca.Files, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := time.Since(l.at); l.files == nil || age >= apart {
		files, err := l.Memory.Read(ctx)
		if err != nil {
			return nil, err
		}
		l.files, l.at = files, time.Now()
	}
	return maps.Clone(l.files), nil
}

func (l *lateStore) Watch(ctx context.Context, _ func()) { <-ctx.Done() }

// shelf is a Board in memory.
type shelf struct {
	mu   sync.Mutex
	said map[string][]byte
}

func (s *shelf) Put(_ context.Context, name string, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said[name] = text; text == nil {
		delete(s.said, name)
	}
	return nil
}

func (s *shelf) All(context.Context) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.said), nil
}

// follower is a replica with the one node that follows it.
type follower struct {
	ca *ca.CA

	mu    sync.Mutex // guards what follows
	chain []*x509.Certificate
}

// heard is what the replica knows: of its own node all, of the other that it has pods.
func (f *follower) heard(own, other string) Report {
	r := heardBy(f.ca)
	f.mu.Lock()
	defer f.mu.Unlock()
	rests := map[string]int{}
	for _, root := range f.ca.Roots() {
		sum := identity.KeyHash(root)
		rests[hex.EncodeToString(sum[:])] = 0
		if trusted(f.chain, []*x509.Certificate{root}) == nil {
			rests[hex.EncodeToString(sum[:])] = 1
		}
	}
	r.Nodes = map[string]Node{other: {Pods: true}, own: {Pods: true, Connected: true, Set: r.Set, Rests: rests}}
	return r
}

func (f *follower) renew(t *testing.T, key *ecdsa.PrivateKey) {
	t.Helper()
	chain, err := f.ca.Certify(key.Public(), spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain = chain
}

func trusted(chain, roots []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range roots {
		opts.Roots.AddCert(root)
	}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// The last clause of T-ROOT, by the clock: two replicas see a new Secret 60 s apart. At no time
// has a node a certificate that the other does not trust.
func TestReplicasThatSeeWhatIsStoredAMinuteApartHarmNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, board := &ca.Memory{}, &shelf{said: map[string][]byte{}}
		late := &lateStore{Memory: memory}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		names, all := [2]string{"first", "second"}, [2]*follower{}
		for i, store := range []ca.Store{memory, late} {
			made, err := ca.New(ca.Options{TrustDomain: td})
			if err != nil {
				t.Fatal(err)
			}
			f := &follower{ca: made}
			keeper := ca.NewKeeper(ca.KeeperOptions{CA: made, Store: store})
			if err := keeper.Open(ctx); err != nil {
				t.Fatal(err)
			}
			s := NewStepper(Options{CA: made, Store: store, Board: board, Name: names[i], Heard: func(time.Time) Report { return f.heard("node of "+names[i], "node of "+names[1-i]) }})
			running.Go(func() { _ = keeper.Run(ctx) })
			running.Go(func() { _ = s.Run(ctx) })
			all[i] = f
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		files, err := memory.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		next := newParty(t)
		plan, err := Begin(Plan{State: Stable}, files, next.kit, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		all[0].renew(t, key)
		all[1].renew(t, key)
		if err := memory.Replace(ctx, files, plan.Files()); err != nil {
			t.Fatal(err)
		}
		began, differed, since := time.Now(), time.Duration(0), time.Time{}
		for second := 0; planIn(t, memory).State != Stable; second++ {
			time.Sleep(time.Second)
			if second%10 == 0 {
				all[0].renew(t, key)
				all[1].renew(t, key)
			}
			for _, holder := range all {
				for _, verifier := range all {
					if err := trusted(holder.chain, verifier.ca.Roots()); err != nil {
						t.Fatalf("%v later, in %s: %v", time.Since(began), planIn(t, memory).State, err)
					}
				}
			}
			switch same := heardBy(all[0].ca).Set == heardBy(all[1].ca).Set; {
			case same:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
			default:
				differed = max(differed, time.Since(since))
			}
			if time.Since(began) > time.Hour {
				t.Fatalf("still in %s", planIn(t, memory).State)
			}
		}
		t.Logf("it took %v; replicas gave other roots for %v", time.Since(began), differed)
		if got := planIn(t, memory); got.Last.Result != Done || differed < apart-5*time.Second { // the first may be late by a round, too
			t.Errorf("it ended as %s; replicas gave other roots for %v at most", got.Last.Result, differed)
		}
	})
}
