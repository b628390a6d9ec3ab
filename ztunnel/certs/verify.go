// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// verifyChain verifies a leaf and its intermediates up to the bundle. It does
// not look at whom the leaf names.
func verifyChain(certs []*x509.Certificate, roots *bundle, usage x509.ExtKeyUsage, now time.Time) ([][]*x509.Certificate, error) {
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	leaf := certs[0]
	// X509-SVID standard, 5.2: a leaf that could sign is refused.
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, errors.New("the certificate is an authority's, not a workload's")
	}
	return roots.verify(certs, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
}

// verify is crypto/x509's verdict on those of the certificates that lead to a
// root of ours. Its rules are all asked; only the search for a path is ours, so
// nothing is accepted that it would refuse.
func (b *bundle) verify(certs []*x509.Certificate, opts x509.VerifyOptions) ([][]*x509.Certificate, error) {
	if err := b.bound(certs); err != nil {
		return nil, err
	}
	path := b.path(certs, (*x509.Certificate).CheckSignatureFrom)
	if path == nil {
		return nil, x509.UnknownAuthorityError{Cert: certs[0]}
	}
	opts.Roots, opts.Intermediates = b.pool, x509.NewCertPool()
	for _, cert := range path[1:] {
		opts.Intermediates.AddCert(cert)
	}
	var chains [][]*x509.Certificate
	var err error
	for _, opts.CurrentTime = range b.moments(path, opts.CurrentTime) {
		if chains, err = path[0].Verify(opts); err == nil {
			break
		}
	}
	return chains, err
}

// moments are those that may be now, if our clock is off by no more than the skew: the
// one at which the path holds, if there is one, and then those at which it does with a
// root that may have signed it. Without a skew it is what our clock says.
func (b *bundle) moments(path []*x509.Certificate, now time.Time) []time.Time {
	if b.skew == 0 {
		return []time.Time{now}
	}
	moments := []time.Time{b.nearest(now, path)}
	for _, root := range b.roots {
		if byName(path[len(path)-1], root) && len(moments) <= maxFailures {
			moments = append(moments, b.nearest(now, append(path[:len(path):len(path)], root)))
		}
	}
	return slices.Compact(moments)
}

// nearest is the moment nearest to now at which all of the certificates are valid, but
// no further away than the skew.
func (b *bundle) nearest(now time.Time, certs []*x509.Certificate) time.Time {
	from, to := span([][]*x509.Certificate{certs})
	at := now
	if at.Before(from) {
		at = from
	}
	if at.After(to) {
		at = to
	}
	switch off := at.Sub(now); {
	case off > b.skew:
		return now.Add(b.skew)
	case off < -b.skew:
		return now.Add(-b.skew)
	}
	return at
}

// chainsUntil is when the last of the chains breaks: each breaks with the
// first of its certificates that expires, roots included.
func chainsUntil(chains [][]*x509.Certificate) time.Time {
	var until time.Time
	for _, chain := range chains {
		first := chain[0].NotAfter
		for _, cert := range chain[1:] {
			if cert.NotAfter.Before(first) {
				first = cert.NotAfter
			}
		}
		if first.After(until) {
			until = first
		}
	}
	return until
}

// matchPeer accepts exactly one workload.
func matchPeer(want spiffeid.ID) func(spiffeid.ID) error {
	return func(id spiffeid.ID) error {
		if id != want {
			return fmt.Errorf("the peer is %v, want %v", id, want)
		}
		return nil
	}
}

// matchAny accepts whoever has proved to be of a trust domain that there is a bundle of.
func matchAny(spiffeid.ID) error { return nil }

// workloadOf is the one workload that a leaf names.
func workloadOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	id, err := identity.FromCertificate(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	_, err = identity.Parse(id)
	return id, err
}
