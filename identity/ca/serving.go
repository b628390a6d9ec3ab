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
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ServerCertificate returns what a tls.Config wants as GetCertificate: a
// certificate of the CA's own issuer for the given DNS names or IP addresses,
// by which clients know the CA. It is made when it is first asked for and again,
// with a new key, at half its life, when the CA has another issuer, and when the
// clock is set to where it does not hold.
func (c *CA) ServerCertificate(names ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := &serving{ca: c, names: slices.Clone(names)}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.get() }
}

// EndpointID is whom the CA's certificate names to other trust domains. No workload can have
// it: theirs are of ServiceAccounts.
func EndpointID(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	return spiffeid.FromSegments(td, "culvert", "identity")
}

// EndpointCertificate is ServerCertificate for clients of other trust domains, who know the
// CA by EndpointID.
func (c *CA) EndpointCertificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	id, err := EndpointID(c.TrustDomain())
	s := &serving{ca: c, id: id}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if err != nil {
			return nil, err
		}
		return s.get()
	}
}

type serving struct {
	ca    *CA
	names []string
	id    spiffeid.ID // zero: none

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	by      *authority    // that signed it
	err     error         // what the last attempt to make one came to
	making  chan struct{} // closed when the attempt under way ends; nil: there is none
}

// get has one made if it is time. A handshake does not wait for a signer elsewhere while
// there is one that holds; without one all wait for the same attempt.
func (s *serving) get() (*tls.Certificate, error) {
	s.mu.Lock()
	now, by := time.Now(), s.ca.inForce.Load()
	current, there := s.current, s.holds(now, end)
	if s.by == by && s.holds(now, middle) {
		s.mu.Unlock()
		return current, nil
	}
	if s.making == nil {
		s.making = make(chan struct{})
		go s.make(by, s.making)
	}
	making := s.making
	s.mu.Unlock()
	if there && s.ca.Signer() != nil {
		return current, nil
	}
	<-making
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || s.holds(time.Now(), end) {
		return s.current, nil // better than none; the next handshake tries again
	}
	return nil, fmt.Errorf("certificate of the CA's server: %w", s.err)
}

// make has an authority sign the next one.
func (s *serving) make(by *authority, done chan struct{}) {
	fresh, err := by.serving(s.names, s.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.current, s.by = fresh, by
	}
	s.err, s.making = err, nil
	close(done)
}

// holds reports whether there is a certificate, valid now and before a time of its
// life. Its own times have no monotonic reading, so that the wall clock decides, as
// it does for clients: also after the machine slept.
func (s *serving) holds(now time.Time, until func(*x509.Certificate) time.Time) bool {
	return s.current != nil && !now.Before(s.current.Leaf.NotBefore) && now.Before(until(s.current.Leaf))
}

func middle(c *x509.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) }

func end(c *x509.Certificate) time.Time { return c.NotAfter }

// serving signs a certificate for a server of the given names or, if it is not zero, of a
// SPIFFE ID.
func (a *authority) serving(names []string, id spiffeid.ID) (*tls.Certificate, error) {
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
	if !id.IsZero() {
		template.URIs = []*url.URL{id.URL()}
	} else if len(names) == 0 {
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
	made := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, cert := range a.above(leaf) {
		made.Certificate = append(made.Certificate, cert.Raw)
	}
	return made, nil
}
