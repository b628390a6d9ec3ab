// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// A tunnel to another trust domain needs a list that names exactly that peer at exactly that
// address, and a bundle of its domain. It is denied when either goes.
func TestATunnelToAnotherTrustDomainNeedsAListAndABundle(t *testing.T) {
	theirs, by := certstest.NewCA(), newAccusing()
	store := certs.New(certs.Config{TrustDomain: domain, Issuer: by, TTL: turningTTL, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- store.Run(ctx) }()
	id := spiffeid.RequireFromPath(domain, "/ns/shop/sa/web")
	release := store.Hold(id)
	t.Cleanup(func() {
		release()
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})

	there := spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
	at := netip.MustParseAddr("172.20.0.7")
	key := hbone.Key{Dst: there, Addr: netip.AddrPortFrom(at, workload.HBONEPort)}
	registry := workload.NewRegistry(nil)
	p := &Pods{Config: Config{Certs: store, Registry: registry}}
	wants := func(when string, key hbone.Key, want hbone.Cause) hbone.Credential {
		t.Helper()
		cred, err := p.toPeer(t.Context(), id, key)
		if cause, _ := errors.AsType[hbone.Cause](err); cause != want {
			t.Errorf("%s: %v, want %q", when, err, want)
		}
		return cred
	}
	wants("nobody is named", key, hbone.ErrDenied)
	names := func(id spiffeid.ID, addr netip.Addr) {
		registry.SetForeign([]workload.ForeignDomain{{
			TrustDomain: id.TrustDomain(), CIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")},
			Workloads: []workload.ForeignWorkload{{ID: id, Addrs: []netip.Addr{addr}}},
		}})
	}
	names(there, at)
	wants("there is no bundle", key, hbone.ErrTLS)
	wants("another account", hbone.Key{Dst: spiffeid.RequireFromPath(there.TrustDomain(), "/ns/shop/sa/api"), Addr: key.Addr}, hbone.ErrDenied)
	wants("another address", hbone.Key{Dst: there, Addr: netip.MustParseAddrPort("172.20.0.8:15008")}, hbone.ErrDenied)

	by.federate(certs.Foreign{TrustDomain: there.TrustDomain(), Sequence: 1, Roots: []*x509.Certificate{theirs.Cert}})
	soon(t, "the bundle comes", func() bool { return len(store.Following().Federated) == 1 })
	cred := wants("named, and there is a bundle", key, "")
	shown := tls.ConnectionState{PeerCertificates: []*x509.Certificate{theirs.Leaf(there).Cert}}
	asked := func(when string, denied, proved bool) {
		t.Helper()
		err := cred.Denied(shown, key.Addr)
		var says interface{ Denied() bool }
		if is := errors.As(err, &says) && says.Denied(); is != denied || (err != nil) != denied {
			t.Errorf("%s: %v, want it denied: %v", when, err, denied)
		}
		if cred.Until(shown).After(time.Now()) != proved {
			t.Errorf("%s: want it proved: %v", when, proved)
		}
	}
	asked("all is as it was", false, true)
	names(spiffeid.RequireFromPath(there.TrustDomain(), "/ns/shop/sa/api"), at)
	asked("another account is expected", true, true)
	names(there, netip.MustParseAddr("172.20.0.9"))
	asked("it is expected elsewhere", true, true)
	names(there, at)
	by.deny(deny.Entry{Kind: deny.KindID, Value: there.String()})
	soon(t, "the CA denies it", func() bool { return store.Denying().Entries == 1 })
	asked("the CA denies it", true, true)
	by.deny()
	soon(t, "the CA denies nobody", func() bool { return store.Denying().Entries == 0 })
	by.federate()
	soon(t, "the bundle goes", func() bool { return len(store.Following().Federated) == 0 })
	asked("the bundle is gone", false, false)
	wants("the bundle is gone", key, hbone.ErrTLS)
}

// federate has the stream say these bundles of other trust domains, and no others.
func (t *turning) federate(all ...certs.Foreign) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bundle.Foreign = all
	t.bundle.Listed++
	close(t.news)
	t.news = make(chan struct{})
}

// soon waits until something is so.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
