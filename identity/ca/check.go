// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Bounds of what is taken as strong enough.
const (
	minRSABits    = 2048
	minSerialBits = 64 // as the CA/Browser forum asks
	leavesInLife  = 6  // lifetimes of a leaf that an issuer must live

	// Two certificates that are made one after the other, both for a year, end a
	// second apart.
	slack = 24 * time.Hour
)

// checkKeys asks whose the keys are.
func (e *examination) checkKeys() {
	issuer := e.chain[0]
	fit := slices.IndexFunc(e.chain, func(c certificate) bool { return fits(e.key, c) })
	switch {
	case fit < 0:
		e.report(foreignKey, e.names.key, "%s does not belong to %s: the key is another one%s", e.names.key, issuer, e.beside())
	case fit > 0:
		e.report(issuerNotFirst, issuer.file, "%s belongs to %s, which is not the first of the chain", e.names.key, e.chain[fit])
	}
	if _, there := e.files[e.names.rootKey]; !there {
		return // offline: it is needed only to make another issuer
	}
	key := e.privateKey(e.names.rootKey)
	if key != nil && !slices.ContainsFunc(e.roots, func(c certificate) bool { return fits(key, c) }) {
		e.report(rootKeyOfAnother, e.names.rootKey, "%s does not belong to %s: the key is another one", e.names.rootKey, e.roots[0].file)
	}
}

// checkCertificates asks each authority for what it lacks by itself.
func (e *examination) checkCertificates() {
	for _, root := range e.roots {
		e.checkAuthority(root)
		e.checkRoot(root)
	}
	for _, cert := range e.chain {
		if slices.ContainsFunc(e.roots, cert.is) {
			continue // said of the root, and not sent to anybody
		}
		e.checkAuthority(cert)
		if weak(cert.SignatureAlgorithm) { // of a root nobody checks it
			e.report(weakSignature, cert.file, "%s is signed by %v", cert, cert.SignatureAlgorithm)
		}
		if err := identity.CheckKey(cert.Certificate); err != nil && tooShort(cert) == "" { // no node would take a leaf of it
			e.report(costlyKey, cert.file, "%s: %v", cert, err)
		}
		if n := cert.SerialNumber; n.BitLen() < minSerialBits {
			e.report(weakSerial, cert.file, "%s has the serial number %x, of less than %d bits", cert, n, minSerialBits)
		}
	}
}

func (e *examination) checkAuthority(cert certificate) {
	switch {
	case !cert.BasicConstraintsValid:
		e.report(noConstraints, cert.file, "%s has no basic constraints, so it is no authority", cert)
		return
	case !cert.IsCA:
		e.report(notAnAuthority, cert.file, "%s may not sign others: its basic constraints say CA:FALSE", cert)
		return
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		e.report(noCertSign, cert.file, "%s may not sign others: its key usage lacks keyCertSign", cert)
	}
	if short := tooShort(cert); short != "" {
		e.report(shortKey, cert.file, "%s has a key of %s", cert, short)
	}
	for _, uri := range cert.URIs { // none: an authority may leave it open
		if id, err := spiffeid.FromURI(uri); err != nil || id != e.opts.TrustDomain.ID() {
			e.report(foreignDomain, cert.file, "%s is made for %v, not for the trust domain %v", cert, uri, e.opts.TrustDomain)
		}
	}
	e.checkExtensions(cert)
}

// tooShort says what a key is that is too weak to sign, or "".
func tooShort(cert certificate) string {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return "RSA with less than 2048 bits"
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return "the curve P-224"
		}
	}
	return ""
}

// weak reports whether Go refuses a signature of the kind.
func weak(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// checkExtensions refuses what keeps a certificate from having leaves for both sides
// of a tunnel below it. OpenSSL does not take anyExtendedKeyUsage for either.
func (e *examination) checkExtensions(cert certificate) {
	if unknown := cert.UnhandledCriticalExtensions; len(unknown) > 0 {
		e.report(criticalExtension, cert.file, "%s: it has the critical extension %v, which verifiers do not know", cert, unknown[0])
	}
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return
	}
	var missing []string
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		missing = append(missing, "serverAuth")
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		missing = append(missing, "clientAuth")
	}
	if missing != nil {
		e.report(narrowUsage, cert.file, "%s: its extended key usage lacks %s, and holds for all that is signed below it",
			cert, strings.Join(missing, " and "))
	}
}

// checkNow asks whether all that a leaf needs above it holds now.
func (e *examination) checkNow() {
	now := time.Now()
	for _, cert := range e.above() {
		switch {
		case now.Before(cert.NotBefore):
			e.report(notYetValid, cert.file, "%s is not valid before %v; the clock says %v", cert, stamp(cert.NotBefore), stamp(now))
		case !now.Before(cert.NotAfter):
			e.report(expired, cert.file, "%s has expired on %v; the clock says %v", cert, stamp(cert.NotAfter), stamp(now))
			e.defects[len(e.defects)-1].cause = ErrExpired
		}
	}
}

// checkLives asks whether lifetimes fit to each other.
func (e *examination) checkLives() {
	above := e.above()
	for i, cert := range e.chain {
		if parent := above[i+1]; cert.NotAfter.After(parent.NotAfter.Add(slack)) {
			e.report(outlivesParent, cert.file, "%s ends on %v, after %s, which is above it and ends on %v",
				cert, stamp(cert.NotAfter), parent, stamp(parent.NotAfter))
		}
	}
	for _, root := range e.roots {
		if !time.Now().Before(root.NotAfter) && !root.is(e.anchors[0]) {
			e.report(spareExpired, root.file, "%s, a root that this issuer does not need, has expired on %v", root, stamp(root.NotAfter))
		}
	}
	issuer := e.chain[0]
	if life := issuer.NotAfter.Sub(issuer.NotBefore); life < leavesInLife*e.opts.LeafTTL {
		e.report(shortLife, issuer.file, "%s lives for %v, less than %d times the %v of a leaf", issuer, life, leavesInLife, e.opts.LeafTTL)
	}
}

// above is the chain with the root that it leads to.
func (e *examination) above() []certificate { return append(slices.Clone(e.chain), e.anchors[0]) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
