// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/culvert-mesh/culvert/regular"
)

// link makes the connections to the CA and remembers how the last attempt
// ended. gRPC itself says it only as text, and not always of the last.
type link struct {
	cfg ClientConfig
	credentials.TransportCredentials

	mu   sync.Mutex // guards last
	last error
}

func newLink(cfg ClientConfig) *link {
	l := &link{cfg: cfg}
	l.TransportCredentials = credentials.NewTLS(&tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             cfg.ServerName,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // by crypto/tls: verify does it
		VerifyConnection:       l.verify,
	})
	return l
}

// Clone returns the same link: there is one memory of attempts.
func (l *link) Clone() credentials.TransportCredentials { return l }

// dial notes a failure only: what follows a success is the handshake.
func (l *link) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		l.note(err)
	}
	return conn, err
}

// ClientHandshake is part of credentials.TransportCredentials.
func (l *link) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ClientHandshake(ctx, authority, raw)
	l.note(err)
	return conn, info, err
}

func (l *link) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
}

// problem is why the last attempt to connect failed, or nil.
func (l *link) problem() error {
	l.mu.Lock()
	err := l.last
	l.mu.Unlock()
	if err == nil {
		return nil
	}
	var (
		known     *Problem
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &authority):
		return problem(CACertificate, "the CA at %s shows a certificate that no root in %s vouches for", l.cfg.Address, l.cfg.RootFile)
	case errors.As(err, &name):
		return problem(CAName, "the CA at %s shows a certificate for %s, not for %s", l.cfg.Address, namesOf(name.Certificate), l.cfg.ServerName)
	case errors.As(err, &invalid), errors.Is(err, errCostly):
		return problem(CACertificate, "the CA at %s shows a certificate that is not valid: %v", l.cfg.Address, err)
	}
	return problem(Unreachable, "the CA at %s does not answer: %v", l.cfg.Address, err)
}

func namesOf(cert *x509.Certificate) string {
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

// verify asks the root file as it is at that handshake. Whoever answers at the
// CA's address is a stranger until then: its chain is bounded as a peer's is.
func (l *link) verify(state tls.ConnectionState) error {
	file, err := l.cfg.roots()
	if err != nil {
		return err
	}
	vouching, generation := file, uint64(0)
	if l.cfg.Vouch != nil {
		vouching, generation = l.cfg.Vouch(file)
	}
	if err = l.vouch(vouching, state); err != nil && generation > 0 && l.vouch(file, state) == nil {
		return problem(CACertificate, "the CA at %s shows a certificate whose root is in %s, but was dropped: the bundle of generation %d is in force", l.cfg.Address, l.cfg.RootFile, generation)
	}
	return err
}

func (l *link) vouch(roots []*x509.Certificate, state tls.ConnectionState) error {
	b, err := newBundle(roots, l.cfg.ClockSkew)
	if err != nil {
		return err
	}
	_, err = b.verify(state.PeerCertificates, x509.VerifyOptions{
		DNSName:     l.cfg.ServerName,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CurrentTime: time.Now(),
	})
	return err
}

// roots reads the root file.
func (c ClientConfig) roots() ([]*x509.Certificate, error) {
	path := c.RootFile
	text, err := regular.ReadFile(path, maxRoots)
	if err != nil {
		return nil, problem(RootFile, "roots of the CA: %v", err)
	}
	certs, err := parseRoots(text)
	if err != nil {
		return nil, problem(RootFile, "roots of the CA: %s: %v", path, err)
	}
	return certs, nil
}
