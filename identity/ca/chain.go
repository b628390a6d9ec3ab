// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"
)

// What a node takes of a CA: eight certificates from leaf to root, of 32 KiB in DER, and a
// bundle of 64 roots in 1 MiB. See ztunnel/certs and identityv1. The sizes here are in PEM.
const (
	maxAbove     = 6
	maxAboveSize = 28 << 10 // 21 KiB in DER, which leaves 11 to the leaf; one of ML-DSA-65 has six
	maxAnchors   = 64
	maxRootsSize = 192 << 10
)

// checkRoot asks whether a root is what it says.
func (e *examination) checkRoot(root certificate) {
	switch {
	case weak(root.SignatureAlgorithm): // Go does not check it, and no verifier needs it
	case !bytes.Equal(root.RawIssuer, root.RawSubject):
		e.report(rootIsSigned, root.file, "%s is not self-signed: %q has signed it", root, root.Issuer)
	case !signed(root, root) && !e.signedBySuccessor(root):
		e.report(brokenRoot, root.file, "%s says that it is self-signed, and its signature is not by its own key", root)
	}
	for _, other := range e.roots {
		if other.is(root) {
			break // each pair once
		}
		if bytes.Equal(other.RawSubject, root.RawSubject) && !bytes.Equal(other.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) {
			e.report(rootsOfOneName, root.file, "%s and %s have the name %q, and different keys", other, root, root.Subject)
		}
	}
}

// signedBySuccessor reports whether another root of the same name has signed it: the
// two have another key each, and the one vouches for the other while both are in use.
func (e *examination) signedBySuccessor(root certificate) bool {
	return slices.ContainsFunc(e.roots, func(other certificate) bool {
		return bytes.Equal(root.RawIssuer, other.RawSubject) && signed(root, other)
	})
}

// signed reports whether the key of parent has signed cert, whatever their names are.
func signed(cert, parent certificate) bool {
	return parent.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// link makes of the certificates in the issuer's files a chain that ends below a root.
func (e *examination) link() {
	if slices.ContainsFunc(e.roots, e.chain[0].is) {
		e.report(issuerIsRoot, e.chain[0].file, "%s is the root itself: the root signs leaves", e.chain[0])
		return
	}
	e.trim()
	if n, size := len(e.chain), encodedSize(e.chain); n > maxAbove || size > maxAboveSize {
		e.report(chainTooLong, e.chain[0].file, "%s leads over %d certificates of %d bytes to a root, the limits are %d and %d",
			e.chain[0], n, size, maxAbove, maxAboveSize)
	}
	if n, size := len(e.roots), encodedSize(e.roots); n > maxAnchors || size > maxRootsSize {
		e.report(bundleTooLong, e.roots[0].file, "%s holds %d roots of %d bytes, the limits are %d and %d", e.roots[0].file, n, size, maxAnchors, maxRootsSize)
	}
	for i, cert := range e.chain {
		if i > 0 && bytes.Equal(cert.RawIssuer, cert.RawSubject) && signed(cert, cert) {
			e.report(rootInChain, cert.file, "%s is a root that is not in %s: %q", cert, e.roots[0].file, cert.Subject)
			return
		}
	}
	for i, cert := range e.chain[:len(e.chain)-1] {
		if !signed(cert, e.chain[i+1]) {
			e.reportBreak(i)
			return
		}
		e.checkParentName(cert, e.chain[i+1])
	}
	e.findAnchors()
}

// encodedSize is how long certificates are in PEM.
func encodedSize(certs []certificate) (size int) {
	for _, cert := range certs {
		size += len(encodeCert(cert.Certificate))
	}
	return size
}

// trim takes out of the chain what is there twice, and from the first root on all:
// Istio's cert-chain.pem repeats the issuer and ends with the root.
func (e *examination) trim() {
	var chain []certificate
	for _, cert := range e.chain {
		if slices.ContainsFunc(e.roots, cert.is) {
			break
		}
		if !slices.ContainsFunc(chain, cert.is) {
			chain = append(chain, cert)
		}
	}
	e.chain = chain
}

// reportBreak says where a chain is broken, and whether another order would mend it.
func (e *examination) reportBreak(i int) {
	cert, next := e.chain[i], e.chain[i+1]
	parent := slices.IndexFunc(e.chain, func(c certificate) bool { return !c.is(cert) && signed(cert, c) })
	if parent >= 0 {
		e.report(brokenChain, next.file, "%s does not follow the certificate that it has signed: %s has signed %s", e.chain[parent], e.chain[parent], cert)
		return
	}
	e.report(brokenChain, next.file, "%s has not signed %s, which is before it; %q has", next, cert, cert.Issuer)
}

func (e *examination) checkParentName(cert, parent certificate) {
	if !bytes.Equal(cert.RawIssuer, parent.RawSubject) {
		e.report(otherParentName, cert.file, "%s is signed by the key of %s, and says by %q, not by %q", cert, parent, cert.Issuer, parent.Subject)
	}
}

// findAnchors finds the roots that have signed the last of the chain: several, if a
// root was renewed with the same key. The next certificate may not hold yet, by our clock:
// then the former one is gone by.
func (e *examination) findAnchors() {
	top, now := e.chain[len(e.chain)-1], time.Now()
	for _, root := range e.roots {
		if signed(top, root) {
			e.anchors = append(e.anchors, root)
		}
	}
	if len(e.anchors) == 0 {
		e.report(notOfARoot, top.file, "%s: not signed by %s", top, e.roots[0].file)
		return
	}
	named := func(root certificate) bool { return bytes.Equal(root.RawSubject, top.RawIssuer) }
	if !slices.ContainsFunc(e.anchors, named) {
		e.checkParentName(top, e.anchors[0])
		return
	}
	e.anchors = slices.DeleteFunc(e.anchors, func(root certificate) bool { return !named(root) })
	slices.SortStableFunc(e.anchors, func(a, b certificate) int {
		if a.holds(now) != b.holds(now) {
			if a.holds(now) {
				return -1
			}
			return 1
		}
		return b.NotAfter.Compare(a.NotAfter)
	})
}

// checkChain asks how the certificates stand to each other.
func (e *examination) checkChain() {
	above := e.above()
	for below, cert := range above {
		if bounded(cert.Certificate) && cert.MaxPathLen < below {
			e.report(pathTooLong, cert.file, "%s: its path length %d allows no more authorities than that below it, and there are %d", cert, cert.MaxPathLen, below)
		}
	}
	if !bounded(e.chain[0].Certificate) {
		e.report(noPathLength, e.chain[0].file, "%s is an issuer with no path length in its basic constraints", e.chain[0])
	}
	for i, cert := range e.chain {
		e.checkAsOpenSSL(cert, above[i+1])
	}
}

// bounded reports whether basic constraints say how many authorities may be below.
func bounded(cert *x509.Certificate) bool { return cert.MaxPathLen > 0 || cert.MaxPathLenZero }
