// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

func checkPair(certName string, cert *x509.Certificate, keyName string, key crypto.Signer) error {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return fmt.Errorf("%s does not belong to %s: the key is another one", keyName, certName)
	}
	return nil
}

// check says why nodes would not accept what the authority signs. First it asks for
// what can be named, with the file at fault; then it signs, and verifies that.
func (a *authority) check(opts Options) error {
	if err := checkAuthority(a.root, a.root, opts.TrustDomain); err != nil {
		return fmt.Errorf("%s: %w", RootFile, err)
	}
	if err := checkAuthority(a.issuer, a.root, opts.TrustDomain); err != nil {
		return fmt.Errorf("%s: %w", IssuerFile, err)
	}
	if err := identity.CheckKey(a.issuer); err != nil { // no node would take a leaf of it
		return fmt.Errorf("%s: %w", IssuerFile, err)
	}
	if noneBelow(a.root) {
		return fmt.Errorf("%s: its path length 0 allows no issuer below it", RootFile)
	}
	if err := a.checkAsOpenSSL(); err != nil {
		return err
	}
	return a.probe(opts)
}

func noneBelow(cert *x509.Certificate) bool { return cert.MaxPathLen == 0 && cert.MaxPathLenZero }

func checkAuthority(cert, parent *x509.Certificate, td spiffeid.TrustDomain) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate may not sign others")
	}
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("not signed by %s: %v", RootFile, err)
	}
	for _, uri := range cert.URIs { // none: an authority may leave it open
		if id, err := spiffeid.FromURI(uri); err != nil || id != td.ID() {
			return fmt.Errorf("made for %v, not for the trust domain %v", uri, td)
		}
	}
	now := time.Now()
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("not valid before %v; the clock says %v", stamp(cert.NotBefore), stamp(now))
	}
	if !now.Before(cert.NotAfter) {
		return fmt.Errorf("%w: on %v; the clock says %v", ErrExpired, stamp(cert.NotAfter), stamp(now))
	}
	return checkExtensions(cert)
}

// checkExtensions refuses what keeps a certificate from having leaves for both sides
// of a tunnel below it. OpenSSL does not take anyExtendedKeyUsage for either.
func checkExtensions(cert *x509.Certificate) error {
	if unknown := cert.UnhandledCriticalExtensions; len(unknown) > 0 {
		return fmt.Errorf("it has the critical extension %v, which verifiers do not know", unknown[0])
	}
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return nil
	}
	var missing []string
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		missing = append(missing, "serverAuth")
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		missing = append(missing, "clientAuth")
	}
	if missing != nil {
		return fmt.Errorf("its extended key usage lacks %s, and holds for all that is signed below it", strings.Join(missing, " and "))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
