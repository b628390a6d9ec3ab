// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity"
)

var domainRules = []rule{
	{"trust-domain", CategoryDomain, "the CA, its certificates and all nodes are of one trust domain",
		"Give the same -trust-domain to culvert-identity and every ztunnel (mesh.trustDomain of the chart). A CA that names its domain is for no other.", trustDomains},
}

// trustDomains compares all that says a trust domain with the first that does. Both
// values are named.
func trustDomains(w *World) (a answer) {
	first, by := "", ""
	say := func(domain, who string) {
		switch {
		case domain == "":
		case first == "":
			first, by = domain, who
		case domain != first:
			a.fail("%s says %s, %s says %s", by, first, who, domain)
		}
	}
	for _, ca := range w.CAs {
		if ca.State != nil {
			say(ca.State.TrustDomain, "the CA "+ca.Name)
		}
	}
	for _, cert := range append(slices.Clone(w.Roots), w.issuers()...) {
		for _, uri := range cert.URIs {
			if id, err := spiffeid.FromURI(uri); err == nil {
				say(id.TrustDomain().Name(), "the certificate "+name(cert))
			}
		}
	}
	for _, n := range w.answered() {
		say(n.Dump.Config.TrustDomain, "node "+n.Name)
		for _, h := range n.Dump.Certificates {
			if id, err := spiffeid.FromString(h.Identity); err == nil {
				say(id.TrustDomain().Name(), "node "+n.Name+", which holds "+h.Identity+",")
				break // they are all by one flag
			}
		}
	}
	if first == "" {
		return skipped("nobody says a trust domain")
	}
	return a
}

var bundleRules = []rule{
	{"bundle-current", CategoryBundle, "every node verifies by the roots that are published",
		"culvert bundle acks names what each node lacks. A node gets the bundle from the CA: see its ca condition.", ofNodes(func(w *World) (a answer) {
			if len(w.Roots) == 0 {
				return skipped("no root is published")
			}
			for _, n := range w.answered() {
				if f := n.Dump.Following; f != nil && f.Problem != "" && !f.Connected {
					a.warn("node %s hears no news of the bundle since %s: %s", n.Name, heardLast(w, f), f.Problem)
				}
				roots := trusted(n)
				if roots == nil {
					continue // it holds no certificate: leaf-valid says so if it has pods
				}
				for _, root := range missing(w.Roots, roots) {
					a.fail("node %s does not trust %s", n.Name, name(root))
				}
				for _, root := range missing(roots, w.Roots) {
					a.warn("node %s still trusts %s, which is not published", n.Name, name(root))
				}
			}
			return a
		})},
	{"denials-current", CategoryBundle, "every node denies what the CA denies",
		"A node hears of the deny set from the CA: see its ca condition, and denials of its /config_dump. culvert denied shows what is denied.", ofNodes(denialsCurrent)},
	{"bundle-replicas", CategoryBundle, "all replicas of the CA have the same bundle",
		"Replicas share one Secret: see culvert bundle show --where, and the log of the one that differs.", func(w *World) (a answer) {
			var first *string
			for _, ca := range w.CAs {
				if ca.State == nil || ca.State.Bundle.SHA256 == "" {
					continue
				}
				if first == nil {
					first = &ca.State.Bundle.SHA256
				}
				if ca.State.Bundle.SHA256 != *first {
					a.fail("%s has %s (generation %d), another has %s", ca.Name, ca.State.Bundle.SHA256, ca.State.Bundle.Generation, *first)
				}
			}
			if first == nil {
				return skipped("no replica shows its bundle")
			}
			return a
		}},
}

// heardLast is when a node's stream of the bundle was last open.
func heardLast(w *World, f *fleet.Following) string {
	if f.AgeSeconds == 0 { // an older ztunnel
		return stamp(f.Since)
	}
	return stamp(w.Now.Add(-time.Duration(f.AgeSeconds * float64(time.Second))))
}

// denialsCurrent compares what each node goes by with the youngest set of all replicas.
func denialsCurrent(w *World) (a answer) {
	var latest uint64
	var by string
	for _, ca := range w.CAs {
		if ca.State == nil || ca.State.DenySet == nil {
			continue
		}
		set := ca.State.DenySet
		if set.Problem != "" {
			a.fail("%s does not go by what was written last: %s", ca.Name, set.Problem)
		}
		if set.Generation > latest {
			latest, by = set.Generation, ca.Name
		}
	}
	known := by != ""
	for _, n := range w.answered() {
		d := n.Dump.Denying
		if d == nil || d.None {
			continue
		}
		known = true
		switch {
		case d.Connected == 0:
			a.fail("node %s has not heard for %v whom the CA denies%s", n.Name, (time.Duration(d.AgeSeconds) * time.Second), because(d.Problem))
		case d.Generation < latest:
			a.warn("node %s denies by generation %d, and %s has %d", n.Name, d.Generation, by, latest)
		case d.Problem != "":
			a.warn("node %s: %s", n.Name, d.Problem)
		}
	}
	if !known {
		return skipped("the CA has no deny set (-deny or -deny-configmap)")
	}
	return a
}

func missing(some, others []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(some), func(cert *x509.Certificate) bool { return slices.ContainsFunc(others, cert.Equal) })
}

var leafRules = []rule{
	{"nodes-answer", CategoryLeaves, "every node's ztunnel answers",
		"See the pod of ztunnel on that node, and its log.", func(w *World) (a answer) {
			if len(w.Nodes) == 0 {
				a.fail("no ztunnel was found")
			}
			for _, n := range w.Nodes {
				if n.Problem != "" {
					a.fail("node %s: %s", n.Name, n.Problem)
				}
			}
			return a
		}},
	{"ca-signs", CategoryLeaves, "the CA signs for every node",
		"docs/observability.md explains the word; culvert certs list shows what renewals fail with.", ofNodes(func(w *World) (a answer) {
			for _, n := range w.answered() {
				switch ca := n.Dump.CA; ca.Reason {
				case "signs":
				case "":
					a.fail("node %s does not say", n.Name)
				default:
					a.fail("node %s: %s since %s%s", n.Name, ca.Reason, stamp(ca.Since), because(ca.Problem))
				}
			}
			return a
		})},
	{"leaf-valid", CategoryLeaves, "every identity in use has a valid certificate",
		"culvert certs list shows what the last attempt failed with.", ofNodes(func(w *World) (a answer) {
			for _, n := range w.answered() {
				for _, h := range n.Dump.Certificates {
					switch until := h.Until(); {
					case until.IsZero():
						a.fail("node %s has none for %s: %s", n.Name, h.Identity, h.State)
					case !w.Now.Before(until):
						a.fail("node %s: that of %s expired at %s", n.Name, h.Identity, stamp(until))
					}
				}
				for _, id := range withoutAny(n) {
					a.fail("node %s shows none for %s", n.Name, id)
				}
			}
			return a
		})},
	{"leaf-renewed", CategoryLeaves, "certificates are renewed in time",
		"A renewal is late: culvert certs list shows what it fails with, and culvert ca outage-budget for how long it may.", ofNodes(func(w *World) (a answer) {
			for _, n := range w.answered() {
				for _, h := range n.Dump.Certificates {
					word, problem := n.Dump.Said(h.Identity)
					if word == "overdue" {
						a.fail("node %s: that of %s is overdue%s", n.Name, h.Identity, because(problem))
					}
				}
			}
			return a
		})},
	{"leaf-issuer", CategoryLeaves, "certificates are of an issuer that signs now",
		"Nodes renew by themselves: if this lasts longer than half a leaf's life, see leaf-renewed.", ofNodes(func(w *World) (a answer) {
			current := w.issuers()
			for _, n := range w.answered() {
				for _, h := range n.Dump.Certificates {
					if leaf := h.Leaf(); leaf != nil && !slices.ContainsFunc(current, func(cert *x509.Certificate) bool { return leaf.CheckSignatureFrom(cert) == nil }) {
						a.warn("node %s: that of %s is of %s, which signs no more", n.Name, h.Identity, leaf.Issuer)
					}
				}
			}
			return a
		})},
	{"leaf-name", CategoryLeaves, "each certificate names its identity, and no other",
		"Such a certificate is of no CA of Culvert: see who issued it.", ofNodes(leafNames)},
	{"leaf-served", CategoryLeaves, "pods present the certificates that their nodes hold",
		"Something else answers at the pod's port 15008, or serves an old certificate: look at ztunnel on that node.", leafServed},
}

// withoutAny are the identities of pods for which a node shows no certificate, nor why.
func withoutAny(n fleet.Node) (ids []string) {
	for _, pod := range n.Dump.Pods {
		held := slices.ContainsFunc(n.Dump.Certificates, func(h fleet.Held) bool { return h.Identity == pod.Identity })
		if pod.Identity != "" && pod.State == "enrolled" && !held && !slices.Contains(ids, pod.Identity) {
			ids = append(ids, pod.Identity)
		}
	}
	slices.Sort(ids)
	return ids
}

func leafNames(w *World) (a answer) {
	for _, n := range w.answered() {
		for _, h := range n.Dump.Certificates {
			leaf := h.Leaf()
			if leaf == nil {
				continue
			}
			id, err := identity.FromCertificate(leaf)
			switch {
			case err != nil:
				a.fail("node %s: that of %s: %v", n.Name, h.Identity, err)
			case id.String() != h.Identity:
				a.fail("node %s: that of %s names %s", n.Name, h.Identity, id)
			case slices.ContainsFunc(leaf.DNSNames, foreign(id)) || len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0:
				a.fail("node %s: that of %s has other names: %s", n.Name, h.Identity, strings.Join(leaf.DNSNames, ", "))
			}
		}
	}
	return a
}

// foreign reports of a DNS name whether it may not stand in the certificates of id.
func foreign(id spiffeid.ID) func(name string) bool {
	sa, err := identity.Parse(id)
	return func(name string) bool { return err != nil || !sa.OwnDNSName(name) }
}

func leafServed(w *World) (a answer) {
	if w.Served == nil {
		return skipped("it needs handshakes with pods: --proxy")
	}
	away := 0
	for _, s := range w.Served {
		i := slices.IndexFunc(w.Nodes, func(n nodeOf) bool { return n.Name == s.Node })
		switch {
		case s.Leaf == nil:
			away++
		case i < 0 || !holds(w.Nodes[i], s):
			a.fail("node %s: %s presents the serial number %x for %s, which the node does not hold", s.Node, s.Address, s.Leaf.SerialNumber, s.Identity)
		}
	}
	if away == len(w.Served) && a.state == "" {
		return skipped("no pod of %d can be reached from here", away)
	}
	return a
}
