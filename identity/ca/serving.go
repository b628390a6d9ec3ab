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
// with a new key, at half its life.
func (c *CA) ServerCertificate(names ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := &serving{ca: c, names: slices.Clone(names)}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.get() }
}

type serving struct {
	ca    *CA
	names []string

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	renewAt time.Time
}

func (s *serving) get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.current != nil && now.Before(s.renewAt) {
		return s.current, nil
	}
	fresh, err := s.issue()
	if err == nil {
		s.current = fresh
		s.renewAt = now.Add(fresh.Leaf.NotAfter.Sub(now) / 2)
		return fresh, nil
	}
	if s.current != nil && now.Before(s.current.Leaf.NotAfter) {
		return s.current, nil // better than none; the next handshake tries again
	}
	return nil, fmt.Errorf("certificate of the CA's server: %w", err)
}

func (s *serving) issue() (*tls.Certificate, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range s.names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if len(s.names) == 0 {
		return nil, errors.New("no DNS name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := s.ca.leaf(template, key.Public(), MaxTTL)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{
		Certificate: [][]byte{leaf.Raw, s.ca.issuer.Raw},
		PrivateKey:  key,
		Leaf:        leaf,
	}, nil
}
