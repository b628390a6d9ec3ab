// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ServerCertificate returns what a tls.Config wants as GetCertificate: a
// certificate of the CA's own issuer for the given DNS names or IP addresses,
// by which clients know the CA. It is made at the first handshake and again,
// with a new key, at half its life and when the CA has another issuer.
func (c *CA) ServerCertificate(names ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := &serving{ca: c, names: slices.Clone(names)}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.get() }
}

type serving struct {
	ca    *CA
	names []string

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	by      *authority // that signed it
	renewAt time.Time
}

func (s *serving) get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, by := time.Now(), s.ca.inForce.Load()
	if s.current != nil && s.by == by && now.Before(s.renewAt) {
		return s.current, nil
	}
	fresh, err := by.serving(s.names)
	if err == nil {
		s.current, s.by = fresh, by
		s.renewAt = now.Add(fresh.Leaf.NotAfter.Sub(now) / 2)
		return fresh, nil
	}
	if s.current != nil && now.Before(s.current.Leaf.NotAfter) {
		return s.current, nil // better than none; the next handshake tries again
	}
	return nil, fmt.Errorf("certificate of the CA's server: %w", err)
}

// serving signs a certificate for a server of the given names.
func (a *authority) serving(names []string) (*tls.Certificate, error) {
	if a == nil {
		return nil, ErrNotOpen
	}
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no DNS name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := a.leaf(template, key.Public(), MaxTTL)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{
		Certificate: [][]byte{leaf.Raw, a.issuer.Raw},
		PrivateKey:  key,
		Leaf:        leaf,
	}, nil
}
