// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxEnded bounds what is remembered of other trust domains that is in force no more.
const maxEnded = 128

// ended is what was in force of another trust domain, and is no more. Without a number of the
// list of domains, a replica of the CA that is behind looks like one that is ahead. For behindFor
// nothing that ended comes back, unless the domain has given a greater number since, or the list
// that names the domain has a greater one.
type ended struct {
	of       spiffeid.TrustDomain
	root     sum    // zero: the domain, with all of its roots
	sequence uint64 // of the bundle that was in force last, or that dropped the root
	at       time.Time
}

func (e ended) bars(f Foreign, root sum, now time.Time) bool {
	return e.of == f.TrustDomain && e.root == root && f.Sequence <= e.sequence && now.Sub(e.at) < behindFor
}

// spare takes from what is said of a domain what has ended, and reports whether that was
// anything. The domain is in force if known.
func (all endings) spare(f Foreign, known bool, now time.Time) (spared Foreign, barred bool) {
	bars := func(root sum) bool {
		return slices.ContainsFunc(all, func(e ended) bool { return e.bars(f, root, now) })
	}
	spared = f
	if !known && bars(sum{}) {
		spared.Roots = nil
		return spared, len(f.Roots) > 0
	}
	spared.Roots = slices.DeleteFunc(slices.Clone(f.Roots), func(root *x509.Certificate) bool { return bars(sha256.Sum256(root.Raw)) })
	return spared, len(spared.Roots) < len(f.Roots)
}

type endings []ended

// without forgets that these domains ended. What they dropped stays dropped.
func (all endings) without(named []Foreign) endings {
	return slices.DeleteFunc(all, func(e ended) bool {
		return e.root == sum{} && slices.ContainsFunc(named, func(f Foreign) bool { return f.TrustDomain == e.of })
	})
}

// follow notes what ended of a domain with the step from one bundle to the next, of which
// either may be nil, and forgets what came back.
func (all endings) follow(td spiffeid.TrustDomain, before, next *foreigner, now time.Time) endings {
	if next != nil {
		all = slices.DeleteFunc(all, func(e ended) bool {
			return e.of == td && (e.root == sum{} || next.bundle.set[e.root])
		})
	}
	switch {
	case before == nil:
		return all
	case next == nil:
		return append(all, ended{td, sum{}, before.sequence, now})
	}
	for root := range before.bundle.set {
		if !next.bundle.set[root] {
			all = append(all, ended{td, root, next.sequence, now})
		}
	}
	return all
}

// recent leaves out what bars nothing any more.
func (all endings) recent(now time.Time) endings {
	all = slices.DeleteFunc(all, func(e ended) bool { return now.Sub(e.at) >= behindFor })
	return all[max(0, len(all)-maxEnded):]
}

// savedEnded is an ended in the bundle file. It does not say when: the clock may have been
// set since.
type savedEnded struct {
	TrustDomain string `json:"trustDomain"`
	Root        sum    `json:"root"`
	Sequence    uint64 `json:"sequence,omitempty"`
}

func (all endings) saved() (v []savedEnded) {
	for _, e := range all {
		v = append(v, savedEnded{e.of.Name(), e.root, e.sequence})
	}
	return v
}

func restoreEnded(v []savedEnded, now time.Time) (all endings) {
	for _, one := range v[:min(len(v), maxEnded)] {
		if td, err := spiffeid.TrustDomainFromString(one.TrustDomain); err == nil {
			all = append(all, ended{td, one.Root, one.Sequence, now})
		}
	}
	return all
}
