// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// issuers are the authorities below the roots that sign now: in the CA's files, or as
// its replicas present them, or, if neither is known, above nodes' leaves.
func (w *World) issuers() (all []*x509.Certificate) {
	anchors := w.roots()
	add := func(cert *x509.Certificate) {
		if !slices.ContainsFunc(anchors, cert.Equal) && !bytes.Equal(cert.RawSubject, cert.RawIssuer) && !slices.ContainsFunc(all, cert.Equal) {
			all = append(all, cert)
		}
	}
	for _, c := range custody.Parse(w.Files, "") {
		if c.Root {
			anchors = append(anchors, c.Cert)
		}
	}
	for _, c := range custody.Parse(w.Files, "") {
		add(c.Cert)
	}
	for _, ca := range w.CAs {
		for _, cert := range ca.Chain[min(1, len(ca.Chain)):] {
			add(cert)
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, n := range w.Nodes {
		for _, h := range n.Dump.Certificates {
			for _, cert := range h.Chain[min(1, len(h.Chain)):] {
				add(cert)
			}
		}
	}
	return all
}

// roots are all that are published, or that a node verifies by.
func (w *World) roots() []*x509.Certificate {
	all := slices.Clone(w.Roots)
	for _, n := range w.answered() {
		all = append(all, missing(trusted(n), all)...)
	}
	return all
}

// standing are the roots that somebody goes by whose next certificate he has not.
func (w *World) standing() []*x509.Certificate {
	all := ca.Unrenewed(w.Roots, w.Now)
	for _, n := range w.answered() {
		all = append(all, missing(ca.Unrenewed(trusted(n), w.Now), all)...)
	}
	return all
}

// ttl is the lifetime that leaves get; zero: nobody says it.
func (w *World) ttl() time.Duration {
	for _, ca := range w.CAs {
		if ca.State != nil && ca.State.Issuance.TTLSeconds > 0 {
			return time.Duration(ca.State.Issuance.TTLSeconds * float64(time.Second))
		}
	}
	for _, n := range w.Nodes {
		if ttl, err := time.ParseDuration(n.Dump.Config.TTL); err == nil && ttl > 0 {
			return ttl
		}
	}
	return 0
}

// answered are the nodes that did.
func (w *World) answered() (all []fleet.Node) {
	for _, n := range w.Nodes {
		if n.Problem == "" {
			all = append(all, n)
		}
	}
	return all
}

// trusted are the roots that a node verifies by; nil: it shows none.
func trusted(n fleet.Node) (roots []*x509.Certificate) {
	for _, h := range n.Dump.Certificates {
		for _, root := range h.Roots {
			if !slices.ContainsFunc(roots, root.Equal) {
				roots = append(roots, root)
			}
		}
	}
	return roots
}
