// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// alpn is the one protocol spoken in a tunnel.
const alpn = "h2"

// Pair is one side of tunnels, for one handshake or a few: it keeps its SVID while the
// Store moves on.
type Pair struct {
	Config *tls.Config
	// Until is when a connection made with it ends to be proved, by the bundle as it is when
	// it is asked: the earliest expiry of the own leaf, the peer's, and what either hangs on,
	// or long ago if one of them does not prove any more.
	Until func(tls.ConnectionState) time.Time
	// Without is Until if the bundle had no root of a key, which is named by identity.KeyHash.
	Without func(state tls.ConnectionState, root [sha256.Size]byte) time.Time
	// Denied is why the deny set, as it is when it is asked, has one of the two ends. remote
	// is the peer's address: one that Config.NodeAt has on a denied node is denied.
	Denied func(state tls.ConnectionState, remote netip.AddrPort) error
}

// Server is ServerPair without what a node asks about roots.
func (s *Store) Server(ctx context.Context, id spiffeid.ID) (*tls.Config, func(tls.ConnectionState) time.Time, error) {
	p, err := s.ServerPair(ctx, id)
	return p.Config, p.Until, err
}

// Client is ClientPair without what a node asks about roots.
func (s *Store) Client(ctx context.Context, id, peer spiffeid.ID) (*tls.Config, func(tls.ConnectionState) time.Time, error) {
	p, err := s.ClientPair(ctx, id, peer)
	return p.Config, p.Until, err
}

// ServerPair is the inbound side of a tunnel to a pod of id: it proves id and
// admits any workload that is not denied: of the trust domain or, for policies to judge, of one
// that it is federated with.
//
// Without a valid SVID it waits for one, 5 s or until ctx ends. If id is denied, it wraps a
// *deny.Error.
func (s *Store) ServerPair(ctx context.Context, id spiffeid.ID) (Pair, error) {
	own, err := s.acquire(ctx, id)
	if err != nil {
		return Pair{}, err
	}
	p := &pair{store: s, own: own, usage: x509.ExtKeyUsageClientAuth, match: matchAny}
	config := p.config()
	config.Certificates = []tls.Certificate{own.certificate()}
	// Any, not Verify: the verification is VerifyConnection's.
	config.ClientAuth = tls.RequireAnyClientCert
	return Pair{config, p.until, p.without, p.denied}, nil
}

// ClientPair is the outbound side of a tunnel from a pod of id: it proves id and
// admits exactly peer, which the bundle of its own trust domain proves. If peer is of a trust
// domain of which there is no bundle, it returns ErrNoBundle. See ServerPair.
func (s *Store) ClientPair(ctx context.Context, id, peer spiffeid.ID) (Pair, error) {
	if err := s.mayExpect(peer); err != nil {
		return Pair{}, fmt.Errorf("expect peer %w", err)
	}
	own, err := s.acquire(ctx, id)
	if err != nil {
		return Pair{}, err
	}
	p := &pair{store: s, own: own, usage: x509.ExtKeyUsageServerAuth, match: matchPeer(peer)}
	config := p.config()
	// Not Certificates: crypto/tls would leave ours out if the server hints at
	// authorities that it does not find in our chain.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		shown := own.certificate()
		return &shown, nil
	}
	return Pair{config, p.until, p.without, p.denied}, nil
}

// pair is one SVID and whom it is shown to.
type pair struct {
	store *Store
	own   *svid
	usage x509.ExtKeyUsage // that the peer's leaf must allow
	match func(spiffeid.ID) error
}

func (p *pair) config() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		MaxVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		NextProtos:       []string{alpn},
		// A resumed session would be proved by what was valid then.
		SessionTicketsDisabled: true,
		// Off are only names and chain by crypto/tls; verify does it all, in the
		// one hook that also runs on resumption (CVE-2025-68121).
		InsecureSkipVerify: true,
		VerifyConnection:   p.verify,
	}
}

// verify takes any cipher of TLS 1.3: crypto/tls alone chooses, by both sides'
// hardware, and what it chose must not fail.
func (p *pair) verify(state tls.ConnectionState) error {
	switch {
	case state.Version != tls.VersionTLS13:
		return fmt.Errorf("%s is spoken, want TLS 1.3", tls.VersionName(state.Version))
	case state.DidResume:
		return errors.New("the session was resumed")
	case state.NegotiatedProtocol != alpn:
		return fmt.Errorf("the protocol %q is spoken, want %q", state.NegotiatedProtocol, alpn)
	}
	peer, err := p.prove(state.PeerCertificates)
	if err != nil {
		return fmt.Errorf("verify peer: %v", err)
	}
	return p.store.deniedPeer(peer, netip.AddrPort{}) // here, so that the peer is told by an alert
}

// denied asks the deny set of now. A peer whose certificates do not prove any more, for which
// see until, is asked about by what it showed: the tunnel may live on by a younger one.
func (p *pair) denied(state tls.ConnectionState, remote netip.AddrPort) error {
	if err := p.store.deniedOwn(p.own); err != nil {
		return err
	}
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	peer, err := p.prove(state.PeerCertificates)
	if err != nil {
		peer = proved(state.PeerCertificates)
	}
	return p.store.deniedPeer(peer, remote)
}

// prove asks the current bundle, not the one of when the SVID came.
func (p *pair) prove(certs []*x509.Certificate) (*proof, error) {
	proof, err := p.store.prove(certs, p.usage, time.Now())
	if err != nil {
		return nil, err
	}
	return proof, p.match(proof.id)
}

// longAgo ends a connection at once: the zero time would say "never".
var longAgo = time.Unix(1, 0)

// until needs no second verification for a peer that was just verified.
func (p *pair) until(state tls.ConnectionState) time.Time {
	if len(state.PeerCertificates) == 0 {
		return longAgo
	}
	peer, err := p.prove(state.PeerCertificates)
	if err != nil {
		return longAgo // no longer proved
	}
	own, err := p.own.untilUnder(p.store.roots(), time.Now())
	if err != nil {
		return longAgo // we cannot prove ourselves any more
	}
	if own.Before(peer.until) {
		return own
	}
	return peer.until
}
