// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// svid is one leaf with its key. It does not change once it is served.
type svid struct {
	key    *privateKey
	chain  []*x509.Certificate // leaf first, without the root
	tls    tls.Certificate
	issued time.Time // when we got it, by our clock
	until  time.Time // when it or what it hangs on expires
}

// newSVID checks that the issuer answered what was asked, since a wrong
// answer served would make this node say that it is somebody else.
func newSVID(id spiffeid.ID, key *privateKey, chain []*x509.Certificate, roots *bundle, now time.Time) (*svid, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("the issuer gave no certificate")
	}
	leaf := chain[0]
	if !key.public.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("the issuer certified another key")
	}
	named, err := identity.FromCertificate(leaf)
	if err != nil {
		return nil, err
	}
	if named != id {
		return nil, fmt.Errorf("the issuer certified %v", named)
	}
	if !now.Before(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate expired on %v: is the clock right?", leaf.NotAfter)
	}
	until, err := ownUntil(chain, roots, now)
	if err != nil {
		return nil, err
	}
	s := &svid{key: key, chain: chain, issued: now, until: until}
	s.tls = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, cert := range chain {
		s.tls.Certificate = append(s.tls.Certificate, cert.Raw)
	}
	return s, nil
}

// ownUntil is when a chain of ours expires, if it serves both sides of a
// tunnel. A clock that is behind must not keep us from using a certificate
// which our peers, whose clocks may be right, find valid.
func ownUntil(chain []*x509.Certificate, roots *bundle, now time.Time) (time.Time, error) {
	if start := chain[0].NotBefore; now.Before(start) {
		now = start
	}
	var until time.Time
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		chains, err := verifyChain(chain, roots, usage, now)
		if err != nil {
			return time.Time{}, err
		}
		until = chainsUntil(chains)
	}
	return until, nil
}

func (s *svid) valid(now time.Time) bool { return s != nil && now.Before(s.until) }

// lifetime counts from when we got it, not from NotBefore, which a CA
// backdates: half of a short lifetime counted from there is already over.
func (s *svid) lifetime() time.Duration {
	leaf := s.chain[0]
	// The second is smaller if our clock is behind the CA's.
	return min(s.until.Sub(s.issued), leaf.NotAfter.Sub(leaf.NotBefore))
}
