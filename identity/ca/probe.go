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

	"github.com/culvert-mesh/culvert/identity/signing"
)

// probe signs a workload's certificate and one of the CA's own server, and verifies
// them as their peers do: what cannot be used is not put in force.
func (e *examination) probe() {
	err := e.authority().prove(e.opts)
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
	case errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName:
		files := e.constrained()
		e.report(nameConstraints, files[0], "the name constraints of %s: %v", strings.Join(files, " and "), err)
	case errors.Is(err, signing.ErrAway): // it went since checkSigner
		e.reportAway(err)
	case errors.Is(err, ErrExpired):
		e.report(expired, e.names.issuer, "%v", err)
		e.defects[len(e.defects)-1].cause = ErrExpired
	default:
		e.report(unusable, e.names.issuer, "%s and what is above it: %v", e.names.issuer, err)
	}
}

// prove signs and verifies what the CA is for.
func (a *authority) prove(opts Options) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := spiffeid.FromSegments(opts.TrustDomain, "ns", "culvert-system", "sa", "probe")
	if err != nil {
		return err
	}
	issued, err := a.workload(id, "", key.Public(), MinTTL, opts.LeafNames)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(issued.Leaf)
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
	server, err := a.serving(opts.ServerNames, spiffeid.ID{})
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
	for _, root := range a.roots {
		opts.Roots.AddCert(root)
	}
	for _, cert := range a.chain {
		opts.Intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(opts)
	return err
}

// constrained are the files whose certificates say which names may be below them.
func (e *examination) constrained() (names []string) {
	for _, cert := range append(slices.Clone(e.chain), e.anchors...) {
		for _, extension := range cert.Extensions {
			if extension.Id.Equal(oidNameConstraints) && !slices.Contains(names, cert.file) {
				names = append(names, cert.file)
			}
		}
	}
	slices.Sort(names)
	return names
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
