// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// mesh is what all programs, and the place of the CA, said at one time.
type mesh struct {
	nodes    []fleet.Node
	cas      []fleet.CA
	stored   []custody.Certificate // of the CA's place, without keys
	problems []string              // what could not be looked at, beside nodes and replicas
}

// mesh asks all that the flags lead to. Only what keeps it from finding anything is an
// error.
func (c *command) mesh(ctx context.Context) (m mesh, err error) {
	source, err := c.from.fleet()
	if err != nil {
		return m, err
	}
	work := c.working("asks nodes and the CA", 0, 0)
	defer work.End()
	if m.nodes, err = fleet.Nodes(fleet.Watched(ctx, work), source); err != nil {
		return m, err
	}
	_ = work.Around(func() error { c.warnTwice(m.nodes); return nil }) // it returns no other error
	if m.cas, err = fleet.CAs(fleet.Watched(ctx, work), source); err != nil {
		return m, err
	}
	public, err := c.from.public()
	if err != nil {
		return m, err
	}
	for _, place := range public {
		certs, err := custody.Certificates(ctx, place)
		if err != nil {
			m.problems = append(m.problems, err.Error())
		}
		m.stored = append(m.stored, certs...)
	}
	return m, nil
}

// found is a certificate of an authority, and where it is.
type found struct {
	cert   *x509.Certificate
	places []string
}

func (f found) where() string {
	const most = 3
	if len(f.places) <= most {
		return strings.Join(f.places, ", ")
	}
	return strings.Join(f.places[:most], ", ") + ", …"
}

// renewed reports whether a root is nowhere without its next certificate, which holds.
func (f found) renewed(all []found, now time.Time) bool {
	return slices.ContainsFunc(all, func(next found) bool {
		lacks := func(place string) bool { return !slices.Contains(next.places, place) }
		return ca.Renewed(f.cert, []*x509.Certificate{next.cert}) != nil && !now.Before(next.cert.NotBefore) && !slices.ContainsFunc(f.places, lacks)
	})
}

// anchors are the certificates that somebody trusts as roots. Such a one may be signed by
// another, as the direct parent of cert-manager's issuer is.
func (m mesh) anchors() []*x509.Certificate {
	all := m.published()
	for _, s := range m.stored {
		if s.Root {
			all = append(all, s.Cert)
		}
	}
	for _, n := range m.nodes {
		all = append(all, trustedBy(n)...)
	}
	return all
}

// found returns the roots or the issuers, each once, in the order of their ends.
func (m mesh) found(tier string) (all []found) {
	anchors := m.anchors()
	add := func(cert *x509.Certificate, place string) {
		root := isRoot(cert) || slices.ContainsFunc(anchors, cert.Equal)
		if (tier == tierRoot) != root {
			return
		}
		i := slices.IndexFunc(all, func(f found) bool { return f.cert.Equal(cert) })
		if i < 0 {
			i, all = len(all), append(all, found{cert: cert})
		}
		if !slices.Contains(all[i].places, place) {
			all[i].places = append(all[i].places, place)
		}
	}
	for _, s := range m.stored {
		add(s.Cert, s.Place)
	}
	for _, ca := range m.cas {
		for _, cert := range ca.Chain[min(1, len(ca.Chain)):] {
			add(cert, ca.Name)
		}
	}
	for _, n := range m.nodes {
		for _, h := range n.Dump.Certificates {
			for _, cert := range h.Chain[min(1, len(h.Chain)):] {
				add(cert, n.Name)
			}
			for _, cert := range h.Roots {
				add(cert, n.Name)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return a.cert.NotAfter.Compare(b.cert.NotAfter) })
	return all
}

// isRoot reports whether a certificate says that it signed itself.
func isRoot(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }
