// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// workload is a source of SVIDs and bundles as go-spiffe's interfaces want it, of a
// program that is not ours. It asks the CA for a certificate each time that its own has
// ended.
type workload struct {
	ca     *ca.CA
	id     spiffeid.ID
	roots  []*x509.Certificate
	newest *x509svid.SVID
}

var (
	_ x509svid.Source   = (*workload)(nil)
	_ x509bundle.Source = (*workload)(nil)
)

func (w *workload) GetX509SVID() (*x509svid.SVID, error) {
	if w.newest != nil && time.Now().Before(w.newest.Certificates[0].NotAfter) {
		return w.newest, nil
	}
	key, err := newPrivateKey("")
	if err != nil {
		return nil, err
	}
	chain, err := w.ca.Certify(key.Public(), w.id, time.Hour)
	if err != nil {
		return nil, err
	}
	w.newest = &x509svid.SVID{ID: w.id, Certificates: chain, PrivateKey: key}
	return w.newest, nil
}

func (w *workload) GetX509BundleForTrustDomain(domain spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return x509bundle.FromX509Authorities(domain, w.roots), nil
}

// A001-14: what go-spiffe makes of its sources of SVIDs and bundles meets what a Store
// serves, at both ends, over many lifetimes by a clock that is a fake; until one of them
// does not have the root of the other.
func TestAStoreMeetsTheSourcesOfGoSpiffe(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		w := &workload{ca: r.issuer.ca, id: db, roots: r.issuer.ca.Roots()}
		meet := func() (inbound, outbound ends) {
			theirs := tlsconfig.MTLSClientConfig(w, w, tlsconfig.AuthorizeID(web))
			theirs.NextProtos = []string{alpn}
			ours, _ := server(t, r, web)
			inbound = shake(t, ours, theirs)
			theirs = tlsconfig.MTLSServerConfig(w, w, tlsconfig.AuthorizeID(web))
			theirs.NextProtos = []string{alpn}
			ours, _ = client(t, r, web, db)
			return inbound, shake(t, theirs, ours)
		}
		serials := map[string]bool{}
		for range 6 {
			in, out := meet()
			for _, e := range []ends{in, out} {
				if e.serverErr != nil || e.clientErr != nil {
					t.Fatalf("server %v, client %v", e.serverErr, e.clientErr)
				}
			}
			serials[in.client.PeerCertificates[0].SerialNumber.String()] = true
			pass(50 * time.Minute)
		}
		if len(serials) < 5 {
			t.Errorf("%d certificates in 5 hours", len(serials))
		}
		w.roots = newCA(t, td).Roots()
		in, out := meet()
		if in.clientErr == nil || out.serverErr == nil {
			t.Errorf("by another root: client %v, server %v", in.clientErr, out.serverErr)
		}
	})
}
