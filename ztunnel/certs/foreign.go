// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Foreign is the bundle of another trust domain. Its roots vouch for workloads of that domain
// and for nobody else, as ours do for ours.
type Foreign struct {
	TrustDomain spiffeid.TrustDomain
	Sequence    uint64              // that the domain gave to this set; 0: it gives none
	Roots       []*x509.Certificate // none: whoever says so does not know them yet
}

// foreigners are the bundles of other trust domains that are in force. Store.mu guards them.
type foreigners map[spiffeid.TrustDomain]*foreigner

type foreigner struct {
	sequence uint64
	bundle   *bundle
}

// foreignOf reads what a bundle says of other trust domains. What of it is wrong, or too much,
// is left out: it says nothing of the rest.
func foreignOf(all []*identityv1.FederatedBundle) (foreign []Foreign) {
	for _, f := range all[:min(len(all), identityv1.MaxFederated)] {
		next := savedForeign{TrustDomain: f.GetTrustDomain(), Sequence: f.GetSequence(), Roots: f.GetRoots()}
		if one, err := next.foreign(); err == nil {
			foreign = append(foreign, one)
		}
	}
	return foreign
}

// heedsForeign reports whether a bundle counts for what it says of other trust domains: it is
// not older than the one in force. s.mu is held.
func (s *Store) heedsForeign(err error) bool { return !errors.Is(err, errOldBundle) }

// federateLocked has the bundles of other trust domains be these, and reports whether that
// changed them. One keeps what is known of it if that has a greater number, or if nothing is
// said of its roots.
func (s *Store) federateLocked(all []Foreign) (changed bool) {
	next := foreigners{}
	for _, f := range all {
		if f.TrustDomain == s.cfg.TrustDomain || len(next) >= identityv1.MaxFederated {
			continue
		}
		before := s.foreign[f.TrustDomain]
		if after := f.after(before, s.cfg.ClockSkew); after != nil {
			next[f.TrustDomain] = after
			changed = changed || after != before
		}
	}
	changed = changed || len(next) != len(s.foreign)
	s.foreign = next
	return changed
}

// after is what is in force of a domain when f was said of it; nil: nothing.
func (f Foreign) after(before *foreigner, skew time.Duration) *foreigner {
	if len(f.Roots) == 0 || before != nil && f.Sequence < before.sequence {
		return before
	}
	b, err := newBundle(f.Roots, skew)
	if err != nil {
		return before
	}
	if before != nil && b.equal(before.bundle) {
		if f.Sequence == before.sequence {
			return before
		}
		b = before.bundle // it has proofs
	}
	return &foreigner{f.Sequence, b}
}

// prove proves a peer by the bundle of the trust domain that its leaf names, as it is now.
func (s *Store) prove(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*proof, error) {
	return s.proveBy(s.roots(), certs, usage, now)
}

// proveBy is prove where own is the bundle of our trust domain.
func (s *Store) proveBy(own *bundle, certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*proof, error) {
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	named, err := identity.FromCertificate(certs[0])
	if err != nil {
		return nil, err
	}
	vouching := own
	if !named.MemberOf(s.cfg.TrustDomain) {
		if vouching = s.foreignBundle(named.TrustDomain()); vouching == nil {
			return nil, fmt.Errorf("the peer %v is not of the trust domain %v, nor of one that it is federated with", named, s.cfg.TrustDomain)
		}
	}
	p, err := vouching.prove(certs, usage, now)
	if err == nil && p.id != named {
		return nil, fmt.Errorf("the peer is %v and %v", named, p.id)
	}
	return p, err
}

// foreignBundle is the bundle of another trust domain; nil: there is none.
func (s *Store) foreignBundle(td spiffeid.TrustDomain) *bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.foreign[td]; f != nil {
		return f.bundle
	}
	return nil
}

// savedForeign is a Foreign in the bundle file.
type savedForeign struct {
	TrustDomain string   `json:"trustDomain"`
	Sequence    uint64   `json:"sequence"`
	Roots       [][]byte `json:"roots"` // DER
}

// foreign leaves out roots that Go cannot read, and those that would cost too much to check
// signatures of.
func (v savedForeign) foreign() (f Foreign, err error) {
	if f.TrustDomain, err = spiffeid.TrustDomainFromString(v.TrustDomain); err != nil {
		return Foreign{}, err
	}
	if n := len(v.Roots); n > identityv1.MaxFederatedRoots {
		return Foreign{}, fmt.Errorf("%d roots, the limit is %d", n, identityv1.MaxFederatedRoots)
	}
	f.Sequence = v.Sequence
	for _, der := range v.Roots {
		if root, err := x509.ParseCertificate(der); err == nil && identity.CheckKey(root) == nil {
			f.Roots = append(f.Roots, root)
		}
	}
	return f, nil
}

func (all foreigners) saved() (v []savedForeign) {
	for td, f := range all {
		one := savedForeign{TrustDomain: td.Name(), Sequence: f.sequence}
		for _, root := range f.bundle.roots {
			one.Roots = append(one.Roots, root.Raw)
		}
		v = append(v, one)
	}
	slices.SortFunc(v, func(a, b savedForeign) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
	return v
}

func restoreForeign(v []savedForeign) (all []Foreign) {
	for _, one := range v {
		if f, err := one.foreign(); err == nil {
			all = append(all, f)
		}
	}
	return all
}

// Federated is how this node knows the roots of another trust domain.
type Federated struct {
	TrustDomain string `json:"trustDomain"`
	Sequence    uint64 `json:"sequence,omitempty"`
	Roots       int    `json:"roots"`
	SHA256      string `json:"sha256"` // of the roots; see identity.BundleHash
}

func (all foreigners) dump() (dumped []Federated) {
	for td, f := range all {
		dumped = append(dumped, Federated{td.Name(), f.sequence, len(f.bundle.roots), hexOf(identity.BundleHash(f.bundle.roots))})
	}
	slices.SortFunc(dumped, func(a, b Federated) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
	return dumped
}
