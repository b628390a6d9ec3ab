// SPDX-License-Identifier: Apache-2.0

// Package identity is the vocabulary of who a workload is: a Kubernetes
// ServiceAccount, named by a SPIFFE ID spiffe://<trust domain>/ns/<namespace>/sa/<name>.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Longest names that Kubernetes accepts: a namespace is a DNS-1123 label, a
// ServiceAccount name a DNS-1123 subdomain.
const (
	maxLabel     = 63
	maxSubdomain = 253
)

// Bounds of the lifetime of an SVID.
const (
	MinTTL = 25 * time.Second
	MaxTTL = 24 * time.Hour
)

// MaxClockSkew is the most that a mesh may allow its clocks to be off.
const MaxClockSkew = 15 * time.Minute

// ServiceAccount is what has an identity in the mesh.
type ServiceAccount struct{ Namespace, Name string }

// ID is the SPIFFE ID of the ServiceAccount in a trust domain.
func (sa ServiceAccount) ID(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	if td.IsZero() {
		return spiffeid.ID{}, errors.New("no trust domain")
	}
	if err := sa.validate(); err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromSegments(td, "ns", sa.Namespace, "sa", sa.Name)
}

// String is "namespace/name".
func (sa ServiceAccount) String() string { return sa.Namespace + "/" + sa.Name }

// ParseServiceAccount reads "namespace/name".
func ParseServiceAccount(s string) (ServiceAccount, error) {
	namespace, name, found := strings.Cut(s, "/")
	sa := ServiceAccount{Namespace: namespace, Name: name}
	if !found {
		return ServiceAccount{}, fmt.Errorf("ServiceAccount %q is not namespace/name", s)
	}
	if err := sa.validate(); err != nil {
		return ServiceAccount{}, err
	}
	return sa, nil
}

// Parse reads the ServiceAccount out of a SPIFFE ID. Only the path
// /ns/<namespace>/sa/<name> names one; more, fewer or other segments do not.
func Parse(id spiffeid.ID) (ServiceAccount, error) {
	segments := strings.Split(id.Path(), "/")
	if len(segments) != 5 || segments[0] != "" || segments[1] != "ns" || segments[3] != "sa" {
		return ServiceAccount{}, fmt.Errorf("SPIFFE ID %q is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<name>", id)
	}
	sa := ServiceAccount{Namespace: segments[2], Name: segments[4]}
	if err := sa.validate(); err != nil {
		return ServiceAccount{}, fmt.Errorf("SPIFFE ID %q: %v", id, err)
	}
	return sa, nil
}

// FromCertificate is the SPIFFE ID in a certificate's only URI SAN. A
// certificate with two could be one workload to us and another to a peer
// that picks differently, so it is nobody.
func FromCertificate(cert *x509.Certificate) (spiffeid.ID, error) {
	if n := len(cert.URIs); n != 1 {
		return spiffeid.ID{}, fmt.Errorf("certificate has %d URI SANs, want one", n)
	}
	id, err := spiffeid.FromURI(cert.URIs[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("URI SAN of the certificate: %v", err)
	}
	return id, nil
}

func (sa ServiceAccount) validate() error {
	if len(sa.Namespace) > maxLabel || !isLabel(sa.Namespace) {
		return fmt.Errorf("namespace %q is not a DNS-1123 label", sa.Namespace)
	}
	if len(sa.Name) > maxSubdomain {
		return fmt.Errorf("ServiceAccount name %q is longer than %d bytes", sa.Name, maxSubdomain)
	}
	for label := range strings.SplitSeq(sa.Name, ".") {
		if !isLabel(label) {
			return fmt.Errorf("ServiceAccount name %q is not a DNS-1123 subdomain", sa.Name)
		}
	}
	return nil
}

// isLabel reports whether s is non-empty lower case alphanumerics and hyphens
// that neither start nor end in a hyphen. The length is the caller's question:
// Kubernetes does not cap the labels of a subdomain.
func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return true
}
