// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// above is a ca.Upstream that has the root, as Vault, and may be away.
type above struct {
	root *x509.Certificate
	key  any

	mu   sync.Mutex
	does func(context.Context) error // nil: it answers
	says *x509.Certificate           // the root that it names; nil: its own
}

func newAbove(t *testing.T) *above {
	t.Helper()
	files, err := ca.Make(ca.Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(files[ca.RootKeyFile])
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &above{root: files.Roots()[0], key: key}
}

func (a *above) String() string { return "the authority above" }

func (a *above) Sign(ctx context.Context, csr []byte, name string, uri *url.URL, ttl time.Duration) ([]*x509.Certificate, error) {
	above, err := a.Chain(ctx)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(ttl),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, a.root, request.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(der)
	return append([]*x509.Certificate{issuer}, above...), err
}

func (a *above) Chain(ctx context.Context) ([]*x509.Certificate, error) {
	a.mu.Lock()
	does, says := a.does, a.says
	a.mu.Unlock()
	if does != nil {
		if err := does(ctx); err != nil {
			return nil, err
		}
	}
	if says != nil {
		return []*x509.Certificate{says}, nil
	}
	return []*x509.Certificate{a.root}, nil
}

func (a *above) becomes(does func(context.Context) error, says *x509.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.does, a.says = does, says
}

// A CA whose issuers Vault signs gets a root of its own. Vault is away, hangs or names a root
// of another domain from a state on, while the issuer that it signed is due: the re-key ends,
// and nothing of Vault's comes back.
func TestARekeyGoesOnWhileTheAuthorityAboveIsAway(t *testing.T) {
	for name, wrong := range map[string]func(t *testing.T, a *above){
		"away": func(_ *testing.T, a *above) {
			a.becomes(func(context.Context) error { return errors.New("Vault is sealed") }, nil)
		},
		"hangs": func(_ *testing.T, a *above) {
			a.becomes(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, nil)
		},
		"another root": func(t *testing.T, a *above) {
			files, err := ca.Make(ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("elsewhere.example")})
			if err != nil {
				t.Fatal(err)
			}
			a.becomes(nil, files.Roots()[0])
		},
	} {
		for _, state := range []State{Prepare, Distribute, Activate, Drain, Drop} {
			t.Run(fmt.Sprintf("%s from %s on", name, state), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { leaveUpstream(t, state, wrong) })
			})
		}
	}
}

func leaveUpstream(t *testing.T, state State, wrong func(*testing.T, *above)) {
	up, store := newAbove(t), &ca.Memory{}
	made, err := ca.New(ca.Options{TrustDomain: td, Upstream: up, IssuerTTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	keeper := ca.NewKeeper(ca.KeeperOptions{CA: made, Store: store})
	s := NewStepper(Options{CA: made, Store: store, Board: alone{}, Name: "one", Heard: func(time.Time) Report { return heardBy(made) }})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = keeper.Run(ctx) })
	running.Go(func() { _ = s.Run(ctx) })
	defer running.Wait()
	defer stop()
	time.Sleep(59 * time.Minute) // the issuer is due in a moment
	files, err := store.Read(ctx)
	if err != nil || len(files.Roots()) != 1 || !files.Roots()[0].Equal(up.root) {
		t.Fatalf("it is not the CA of the authority above: %v", err)
	}
	next := newParty(t)
	plan, err := Begin(Plan{State: Stable}, files, next.kit, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Replace(ctx, files, plan.Files()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Hour); planIn(t, store).State != state; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never in %s", state)
		}
	}
	wrong(t, up)
	time.Sleep(10 * time.Minute)
	if got := planIn(t, store); got.State != Stable || got.Last.Result != Done {
		t.Errorf("it is in %s, %q, and waits for %v", got.State, got.Last.Result, s.Status().Waits)
	}
	up.becomes(nil, nil)
	time.Sleep(30 * time.Minute)
	files, err = store.Read(ctx)
	if err != nil || len(files.Roots()) != 1 || !next.kit.signs(files) || ca.Fingerprint(made.Issuer()) != next.issuer || len(made.Roots()) != 1 {
		t.Errorf("the authority above is back: %v, %d roots, the issuer is %s", err, len(files.Roots()), made.Issuer().Subject)
	}
}

// heardBy is what a replica that serves no node does.
func heardBy(made *ca.CA) Report {
	sum := identity.BundleHash(made.Roots())
	return Report{Set: hex.EncodeToString(sum[:]), Issuer: ca.Fingerprint(made.Issuer()), Longest: Seconds(time.Hour), Placed: true}
}

func planIn(t *testing.T, store ca.Store) Plan {
	t.Helper()
	files, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Of(files)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
