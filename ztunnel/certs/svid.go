// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/deny"
)

// svid is one leaf with its key. It does not change once it is served. A node has
// thousands, so the leaf is kept as it came: parsed, it takes five times as much.
type svid struct {
	key    *privateKey
	leaf   []byte              // DER
	above  []*x509.Certificate // the leaf, without the root: shared by those that have the same
	issued time.Time           // when we got it, by our clock
	until  time.Time           // when it or what it hangs on is taken by no peer any more

	granted    time.Duration // the life that the issuer gave it; see lifetime
	renewAfter time.Duration // the issuer's wish; 0: it has none
	proven     *ownProof
	shown      deny.Subject // the leaf, as the deny set looks at it
}

// ownProof remembers until when an SVID holds under the bundle that was asked last.
type ownProof struct {
	mu    sync.Mutex // guards what follows
	by    *bundle
	until time.Time
	err   error
}

// newSVID checks that the issuer answered what was asked, since a wrong
// answer served would make this node say that it is somebody else.
func newSVID(id spiffeid.ID, key *privateKey, issued Issued, roots *bundle, skew time.Duration, now time.Time) (*svid, error) {
	chain := issued.Chain
	if len(chain) == 0 {
		return nil, fmt.Errorf("the issuer gave no certificate")
	}
	if roots == nil {
		return nil, fmt.Errorf("the issuer names no root, and none is known")
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
	if !now.Before(leaf.NotAfter.Add(skew)) {
		return nil, fmt.Errorf("the certificate expired on %v: is the clock right?", leaf.NotAfter)
	}
	s := &svid{shown: deny.LeafOf(leaf, id.String()), key: key, leaf: bytes.Clone(leaf.Raw), above: chain[1:], issued: now, renewAfter: issued.RenewAfter, granted: granted(leaf, skew)}
	if s.until, err = ownUntil(chain, roots, now); err != nil {
		return nil, err
	}
	s.proven = &ownProof{by: roots, until: s.until}
	return s, nil
}

// granted is the life that a leaf was given, as far as it says so: a CA backdates it, by
// the skew of the clocks if its issuer is old enough. It is rather too short than too long,
// but no CA of ours gives less than identity.MinTTL.
func granted(leaf *x509.Certificate, skew time.Duration) time.Duration {
	said := leaf.NotAfter.Sub(leaf.NotBefore)
	return max(said-skew, min(said, identity.MinTTL))
}

// chain parses the leaf, which was parsed when it came.
func (s *svid) chain() ([]*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(s.leaf)
	if err != nil {
		return nil, fmt.Errorf("read the own certificate: %v", err)
	}
	return append([]*x509.Certificate{leaf}, s.above...), nil
}

// serial is the leaf's, in hexadecimal digits.
func (s *svid) serial() string {
	chain, err := s.chain()
	if err != nil {
		return "" // it was read once
	}
	return chain[0].SerialNumber.Text(16)
}

// certificate is what a handshake shows.
func (s *svid) certificate() tls.Certificate {
	shown := tls.Certificate{PrivateKey: s.key, Certificate: append(make([][]byte, 0, 1+len(s.above)), s.leaf)}
	for _, cert := range s.above {
		shown.Certificate = append(shown.Certificate, cert.Raw)
	}
	return shown
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
		until = chainsUntil(chains).Add(roots.skew)
	}
	return until, nil
}

// untilUnder is until when the SVID holds under a bundle, or why it does not.
func (s *svid) untilUnder(roots *bundle, now time.Time) (time.Time, error) {
	s.proven.mu.Lock()
	defer s.proven.mu.Unlock()
	if s.proven.by != roots {
		s.proven.by = roots
		var chain []*x509.Certificate
		if chain, s.proven.err = s.chain(); s.proven.err == nil {
			s.proven.until, s.proven.err = ownUntil(chain, roots, now)
		}
	}
	return s.proven.until, s.proven.err
}

func (s *svid) valid(now time.Time) bool { return s != nil && now.Before(s.until) }

// ends is zero if none ever came.
func (s *svid) ends() time.Time {
	if s == nil {
		return time.Time{}
	}
	return s.until
}

// lifetime counts from when we got it, not from NotBefore, which a CA backdates: half of
// a short lifetime counted from there is already over. What was granted is less if our
// clock is behind the CA's, or ahead of it by some of Config.ClockSkew.
func (s *svid) lifetime() time.Duration { return min(s.until.Sub(s.issued), s.granted) }
