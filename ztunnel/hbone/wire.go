// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Credential is how a tunnel proves who it is and checks who is there.
type Credential struct {
	// Config authenticates both ends; it offers h2 and lets no other peer
	// than the expected one pass. Required.
	Config *tls.Config
	// Until says when the certificates that authenticated a connection run
	// out, the first of both sides'. Nil: never.
	Until func(tls.ConnectionState) time.Time
}

// wire is the byte stream below the frames. One goroutine reads, one at a time
// writes, any may close or set a deadline. Reading may go on after a deadline;
// a write that missed one has broken the wire.
type wire interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	CloseWrite() error // tells the peer that no more comes
	Close() error      // at once
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// proof is what a handshake has shown.
type proof struct {
	peer          spiffeid.ID
	local, remote netip.AddrPort
	until         time.Time
}

// tlsWire is crypto/tls over a socket.
type tlsWire struct {
	*tls.Conn
	socket net.Conn
}

// Close does not say goodbye, which could block.
func (w tlsWire) Close() error { return w.socket.Close() }

// secure shakes hands on a socket. If that fails, the caller closes the socket.
func secure(ctx context.Context, socket net.Conn, client bool, cred Credential) (wire, proof, error) {
	conn := tls.Server(socket, cred.Config)
	if client {
		conn = tls.Client(socket, cred.Config)
	}
	p, err := handshake(ctx, conn, cred)
	if err != nil {
		return nil, proof{}, fmt.Errorf("%w: handshake with %v: %w", ErrTLS, socket.RemoteAddr(), err)
	}
	return tlsWire{conn, socket}, p, nil
}

func handshake(ctx context.Context, conn *tls.Conn, cred Credential) (proof, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return proof{}, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return proof{}, errors.New("peer does not speak h2")
	}
	if len(state.PeerCertificates) == 0 {
		return proof{}, errors.New("peer has no certificate")
	}
	peer, err := identity.FromCertificate(state.PeerCertificates[0])
	if err != nil {
		return proof{}, err
	}
	p := proof{peer: peer, local: addrPort(conn.LocalAddr()), remote: addrPort(conn.RemoteAddr())}
	if cred.Until != nil {
		p.until = cred.Until(state)
	}
	return p, nil
}

// addrPort is the address of a socket, IPv4 as such.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
