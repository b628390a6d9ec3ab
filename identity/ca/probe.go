// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// probe signs a workload's certificate and one of the CA's own server, and verifies
// them as their peers do: what cannot be used is not put in force.
func (a *authority) probe(opts Options) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := spiffeid.FromSegments(opts.TrustDomain, "ns", "culvert-system", "sa", "probe")
	if err != nil {
		return err
	}
	leaf, err := a.workload(id, key.Public(), MinTTL)
	if err != nil {
		return err
	}
	for _, usage := range leaf.ExtKeyUsage {
		if err := a.verify(leaf, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return fmt.Errorf("no verifier accepts a certificate for %v: %w", id, err)
		}
	}
	if len(opts.ServerNames) == 0 {
		return nil
	}
	server, err := a.serving(opts.ServerNames)
	if err != nil {
		return err
	}
	for _, name := range opts.ServerNames {
		if err := a.verify(server.Leaf, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSName: name}); err != nil {
			return fmt.Errorf("no node accepts the CA's own certificate for %s: %w", name, err)
		}
	}
	return nil
}

func (a *authority) verify(leaf *x509.Certificate, opts x509.VerifyOptions) error {
	opts.Roots, opts.Intermediates = x509.NewCertPool(), x509.NewCertPool()
	opts.Roots.AddCert(a.root)
	opts.Intermediates.AddCert(a.issuer)
	_, err := leaf.Verify(opts)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName {
		return fmt.Errorf("the name constraints of %s: %w", strings.Join(a.constrained(), " and "), err)
	}
	return err
}

// constrained are the files whose certificates say which names may be below them.
func (a *authority) constrained() (names []string) {
	for name, cert := range map[string]*x509.Certificate{RootFile: a.root, IssuerFile: a.issuer} {
		for _, extension := range cert.Extensions {
			if extension.Id.Equal(oidNameConstraints) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
