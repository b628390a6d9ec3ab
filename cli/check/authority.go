// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

var caRules = []rule{
	{"ca-files", CategoryCA, "the CA's certificates and keys can be read",
		"See culvert ca recover. On Kubernetes, reading the Secret needs a right to it.", func(w *World) (a answer) {
			switch {
			case w.FilesProblem != "":
				return skipped("%s", w.FilesProblem)
			case w.Files == nil:
				a.fail("%s: there is no CA", w.Where)
			}
			return a
		}},
	{"ca-lint", CategoryCA, "the CA's certificates and keys are sound",
		"culvert ca verify says of each defect what follows and what to do.", func(w *World) (a answer) {
			if w.Files == nil {
				return skipped("the CA's files are not known")
			}
			return linted(w)
		}},
	{"ca-key-on-no-node", CategoryCA, "the CA's private keys are mounted by no other program",
		"Take the volume out of the pod. Whoever ran there may have the key: make a new CA.", func(w *World) (a answer) {
			if w.Cluster == nil {
				return skipped("there is no Kubernetes")
			}
			for _, pod := range w.Cluster.Pods {
				for _, volume := range pod.Spec.Volumes {
					if volume.Secret != nil && volume.Secret.SecretName == w.Cluster.Secret {
						a.fail("pod %s mounts the Secret %s", pod.Name, w.Cluster.Secret)
					}
				}
			}
			return a
		}},
}

var rootRules = []rule{
	{"roots-found", CategoryRoots, "there are roots that nodes can find",
		"See culvert ca recover: the CA publishes its root once it is open.", func(w *World) (a answer) {
			switch {
			case len(w.Roots) > 0:
			case w.Where == "" && w.Cluster == nil && w.RootsProblem == "":
				return skipped("where they are published was not said")
			default:
				a.fail("none is published%s", because(w.RootsProblem))
			}
			return a
		}},
	{"roots-algorithm", CategoryRoots, "roots have keys and signatures of supported algorithms",
		"Make a CA with ECDSA P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits: culvert ca init.", func(w *World) answer {
			return algorithms(w.roots())
		}},
	{"roots-valid", CategoryRoots, "roots are within their time",
		"See culvert ca recover.", func(w *World) answer { return valid(w, w.standing()) }},
	{"roots-last", CategoryRoots, "roots hold for at least 60 days",
		"culvert ca renew-root gives a root of the CA's own a later end. To change its key, plan for the next root now: nodes need both for a while.", func(w *World) answer { return last(w, w.standing()) }},
	{"roots-distinct", CategoryRoots, "roots have different names and key identifiers",
		"Give each root a subject and a key of its own: verifiers look roots up by these.", func(w *World) (a answer) {
			all := w.roots()
			for i, one := range all {
				for _, other := range all[i+1:] {
					switch {
					case ca.SameAuthority(one, other): // renewed
					case bytes.Equal(one.RawSubject, other.RawSubject):
						a.warn("two roots are named %s", name(one))
					case len(one.SubjectKeyId) > 0 && bytes.Equal(one.SubjectKeyId, other.SubjectKeyId):
						a.warn("%s and %s have one key identifier", name(one), name(other))
					}
				}
			}
			return a
		}},
}

var issuerRules = []rule{
	{"issuer-found", CategoryIssuer, "the CA shows its issuer",
		"See whether the CA answers: culvert expiry.", func(w *World) (a answer) {
			if len(w.issuers()) == 0 {
				a.fail("no replica of the CA, no node and no file shows one")
			}
			return a
		}},
	{"issuer-authority", CategoryIssuer, "issuers may sign certificates",
		"Make the issuer with basicConstraints CA:TRUE and keyUsage keyCertSign: culvert ca renew-issuer.", func(w *World) (a answer) {
			for _, cert := range w.issuers() {
				if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
					a.fail("%s may not sign others", name(cert))
				}
			}
			return a
		}},
	{"issuer-algorithm", CategoryIssuer, "issuers have keys and signatures of supported algorithms",
		"Make another issuer: culvert ca renew-issuer.", func(w *World) answer { return algorithms(w.issuers()) }},
	{"issuer-valid", CategoryIssuer, "issuers are within their time",
		"culvert ca renew-issuer, with --root-key if the root's key is elsewhere.", func(w *World) answer { return valid(w, w.issuers()) }},
	{"issuer-last", CategoryIssuer, "issuers hold for at least 60 days",
		"culvert ca renew-issuer, with --root-key if the root's key is elsewhere.", func(w *World) answer { return last(w, w.issuers()) }},
	{"issuer-of-root", CategoryIssuer, "issuers are issued by a root that every node trusts",
		"Publish the root before its issuer signs. See culvert bundle acks.", issuerOfRoot},
	{"issuer-outlives-leaves", CategoryIssuer, "issuers have six times a leaf's lifetime left",
		"culvert ca renew-issuer, or a shorter -ttl of the CA.", func(w *World) (a answer) {
			ttl := w.ttl()
			if ttl == 0 {
				return skipped("the lifetime of leaves is not known: no CA and no node says it")
			}
			for _, cert := range w.issuers() {
				if left := cert.NotAfter.Sub(w.Now); left > 0 && left < 6*ttl {
					a.fail("%s has %s left, leaves get %s", name(cert), long(left), long(ttl))
				}
			}
			return a
		}},
}

// linted is what the linter says. Of a key that is encrypted, and whose passphrase was not
// given, it says nothing: the CA may well have it.
func linted(w *World) (a answer) {
	var sealed []string
	for _, d := range ca.Lint(w.Files, ca.Options{PassphraseFile: w.PassphraseFile}) {
		switch {
		case ca.NeedsPassphrase(d):
			sealed = append(sealed, d.File)
		case d.Severity == ca.Error:
			a.fail("%v", d)
		default:
			a.warn("%v", d)
		}
	}
	if sealed == nil {
		return a
	}
	unseen := fmt.Sprintf("encrypted, and so not examined without --ca-passphrase-file: %s", strings.Join(sealed, ", "))
	if a.state == "" {
		return skipped("%s", unseen)
	}
	a.found = append(a.found, unseen)
	return a
}

func issuerOfRoot(w *World) (a answer) {
	for _, cert := range w.issuers() {
		if len(w.Roots) > 0 && !under(cert, w.issuers(), w.Roots) {
			a.fail("%s is issued by no root that is published", name(cert))
		}
	}
	for _, n := range w.Nodes {
		roots := trusted(n)
		if roots == nil {
			continue
		}
		for _, ca := range w.CAs {
			if len(ca.Chain) > 1 && !under(ca.Chain[1], ca.Chain[1:], roots) {
				a.fail("node %s trusts no root of %s, by which %s signs", n.Name, name(ca.Chain[1]), ca.Name)
			}
		}
	}
	return a
}

// under reports whether a certificate leads to one of the roots, through others.
func under(cert *x509.Certificate, others, roots []*x509.Certificate) bool {
	for range 4 { // a chain is not longer
		if slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return cert.Equal(root) || cert.CheckSignatureFrom(root) == nil }) {
			return true
		}
		i := slices.IndexFunc(others, func(up *x509.Certificate) bool { return !up.Equal(cert) && cert.CheckSignatureFrom(up) == nil })
		if i < 0 {
			return false
		}
		cert = others[i]
	}
	return false
}

func algorithms(certs []*x509.Certificate) (a answer) {
	for _, cert := range certs {
		if err := identity.CheckKey(cert); err != nil {
			a.fail("%s: %v", name(cert), err)
		}
		if key, isRSA := cert.PublicKey.(*rsa.PublicKey); isRSA && key.N.BitLen() < 2048 {
			a.fail("%s: its RSA key has %d bits, want 2048 at least", name(cert), key.N.BitLen())
		}
		switch cert.SignatureAlgorithm {
		case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
			a.fail("%s is signed by %v", name(cert), cert.SignatureAlgorithm)
		}
	}
	return a
}

func valid(w *World, certs []*x509.Certificate) (a answer) {
	for _, cert := range certs {
		switch {
		case w.Now.Before(cert.NotBefore):
			a.fail("%s is not valid before %s", name(cert), stamp(cert.NotBefore))
		case !w.Now.Before(cert.NotAfter):
			a.fail("%s expired at %s", name(cert), stamp(cert.NotAfter))
		}
	}
	return a
}

// last warns of what ends soon, or fails if a time was asked for.
func last(w *World, certs []*x509.Certificate) (a answer) {
	for _, cert := range certs {
		left := cert.NotAfter.Sub(w.Now)
		switch {
		case left <= 0: // said by valid
		case w.FailWithin > 0 && left < w.FailWithin:
			a.fail("%s ends in %s, at %s", name(cert), long(left), stamp(cert.NotAfter))
		case left < Soon && w.FailWithin == 0:
			a.warn("%s ends in %s, at %s", name(cert), long(left), stamp(cert.NotAfter))
		}
	}
	return a
}

func because(problem string) string {
	if problem == "" {
		return ""
	}
	return ": " + problem
}
