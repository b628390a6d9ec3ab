// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	Problem     string              // why some of them, or all, are left out; the log says it
}

// NewForeign is the bundle of another trust domain within the bounds of those that a CA says.
// Roots that would cost too much to check signatures of are left out; of too many roots all
// are, so that those in force stay.
func NewForeign(td spiffeid.TrustDomain, roots []*x509.Certificate) Foreign {
	f := Foreign{TrustDomain: td}
	if n := len(roots); n > identityv1.MaxFederatedRoots {
		f.Problem = fmt.Sprintf("it has %d roots, the limit is %d", n, identityv1.MaxFederatedRoots)
		return f
	}
	for _, root := range roots {
		if err := identity.CheckKey(root); err != nil {
			f.Problem = fmt.Sprintf("the root %q: %v", root.Subject, err)
			continue
		}
		f.Roots = append(f.Roots, root)
	}
	return f
}

// leftOut is what of other trust domains is not taken by a node that goes by the list of number
// listed, and why; empty: all is.
func leftOut(l listing, listed uint64) string {
	var problems []string
	all := l.all
	if l.number != 0 && l.number < listed {
		problems = append(problems, fmt.Sprintf("the list is number %d, and number %d is in force: it says neither which domains there are nor which not", l.number, listed))
	}
	for i, f := range all {
		switch {
		case i >= identityv1.MaxFederated:
			problems = append(problems, fmt.Sprintf("%d more than %d trust domains, from %v on", len(all)-i, identityv1.MaxFederated, f.TrustDomain))
			return strings.Join(problems, "; ")
		case f.Problem != "":
			problems = append(problems, fmt.Sprintf("%v: %s", f.TrustDomain, f.Problem))
		}
	}
	return strings.Join(problems, "; ")
}

// foreigners are the bundles of other trust domains that are in force. Store.mu guards them.
type foreigners map[spiffeid.TrustDomain]*foreigner

type foreigner struct {
	sequence uint64
	bundle   *bundle
	restored bool // from the file of an earlier ztunnel: the domain may have begun anew since
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

// listing is what was said of other trust domains at a time.
type listing struct {
	number uint64 // of the list; 0: it has none
	all    []Foreign
	sole   bool // nobody else says lists
}

// federateLocked has the bundles of other trust domains be those of a list, and reports whether
// other roots vouch than before. A domain keeps what is known of it if that has a greater
// number, or if nothing is said of its roots. A list with a greater number than any before
// says which domains there are, whatever ended; one with a lower number does not say it.
func (s *Store) federateLocked(l listing, now time.Time) (changed bool) {
	behind := l.number != 0 && l.number < s.listed
	s.ended, s.barred = s.ended.recent(now), nil
	if l.number > s.listed {
		s.listed, s.ended = l.number, s.ended.without(l.all)
	}
	next := foreigners{}
	for _, f := range l.all[:min(len(l.all), identityv1.MaxFederated)] {
		before := s.foreign[f.TrustDomain]
		if f.TrustDomain == s.cfg.TrustDomain || behind && before == nil {
			continue
		}
		if !l.sole && !before.younger(f) {
			barred := false
			if f, barred = s.ended.spare(f, before != nil, now); barred {
				s.barred = &l
			}
		}
		if after := f.after(before, s.cfg.ClockSkew); after != nil {
			next[f.TrustDomain] = after
			changed = changed || before == nil || after.bundle != before.bundle
		}
	}
	if behind {
		next.keep(s.foreign)
	}
	changed = s.ends(next, now) || changed
	s.foreign = next
	return changed
}

// keep has domains of before stay that are not there.
func (all foreigners) keep(before foreigners) {
	for td, f := range before {
		if all[td] == nil {
			all[td] = f
		}
	}
}

// ends notes what ends with the step to next, and reports whether a domain does; s.mu is held.
func (s *Store) ends(next foreigners, now time.Time) (gone bool) {
	for td, before := range s.foreign {
		s.ended = s.ended.follow(td, before, next[td], now)
		gone = gone || next[td] == nil
	}
	for td, after := range next {
		if s.foreign[td] == nil {
			s.ended = s.ended.follow(td, nil, after, now)
		}
	}
	return gone
}

// federateAgain has what was said last count in full once nothing bars it any more.
func (s *Store) federateAgain(now time.Time) {
	s.mu.Lock()
	changed := s.barred != nil && s.federateLocked(*s.barred, now)
	s.mu.Unlock()
	if changed {
		s.newBundle()
	}
}

// defederate ends what is known of other trust domains: the CA has no stream to say it.
func (s *Store) defederate() {
	s.mu.Lock()
	changed := len(s.foreign) > 0
	s.foreign, s.barred = nil, nil
	s.mu.Unlock()
	if changed {
		s.newBundle()
	}
}

// younger reports whether what is in force of a domain counts more than what f says.
func (in *foreigner) younger(f Foreign) bool {
	return in != nil && !in.restored && f.Sequence < in.sequence
}

// after is what is in force of a domain when f was said of it; nil: nothing.
func (f Foreign) after(before *foreigner, skew time.Duration) *foreigner {
	if len(f.Roots) == 0 || before.younger(f) {
		return before
	}
	b, err := newBundle(f.Roots, skew)
	if err != nil {
		return before
	}
	if before != nil && b.equal(before.bundle) {
		b = before.bundle // it has proofs
	}
	return &foreigner{sequence: f.Sequence, bundle: b}
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

// ErrNoBundle says that nothing can prove a peer of another trust domain.
var ErrNoBundle = errors.New("this node has no bundle of that trust domain: the list of -federation of the CA, or federatesWith of an entry of SPIRE, has to name it")

// mayExpect reports whether a peer can prove to be id: one of ours, or of a trust domain of
// which there is a bundle now.
func (s *Store) mayExpect(id spiffeid.ID) error {
	if id.MemberOf(s.cfg.TrustDomain) {
		return s.cfg.checkID(id)
	}
	if _, err := identity.Parse(id); err != nil {
		return err
	}
	if s.foreignBundle(id.TrustDomain()) == nil {
		return fmt.Errorf("%v: %w", id, ErrNoBundle)
	}
	return nil
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
