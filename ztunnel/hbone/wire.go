// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Credential is how a tunnel proves who it is and checks who is there.
type Credential struct {
	// Config authenticates both ends; it offers h2 and lets no other peer
	// than the expected one pass. Required.
	Config *tls.Config
	// Until says when the certificates that authenticated a connection run
	// out, the first of both sides', by the roots that are trusted when it is
	// called: in the past if they do not hold. Of the state it needs the peer's
	// certificates. Nil: never.
	Until func(tls.ConnectionState) time.Time
	// Without is Until if one root less were trusted, which is named by the SHA-256 of its
	// key. Nil: it is not known.
	Without func(state tls.ConnectionState, root [sha256.Size]byte) time.Time
	// Denied says why a connection may not be, or not go on, although its certificates
	// hold: somebody denied one of its ends. It is asked after the handshake and by Reprove,
	// for remote, the peer's address, and needs what Until needs. Nil: nobody is denied.
	Denied func(state tls.ConnectionState, remote netip.AddrPort) error
}

// denial is an error of a Credential, or of its Config's VerifyConnection, which says that
// one end of the tunnel is denied.
type denial interface {
	error
	Denied() bool
}

// causeOf is ErrDenied if somebody was denied, else the cause that is usual there.
func causeOf(err error, usual Cause) Cause {
	if d, ok := errors.AsType[denial](err); ok && d.Denied() {
		return ErrDenied
	}
	return usual
}

// Records says who makes the TLS records of a tunnel.
type Records int

// The makers of records.
const (
	// OwnRecords: hbone/record, many records a syscall. In FIPS mode, and for a
	// tunnel whose cipher is not AES-GCM, it is StdRecords.
	OwnRecords Records = iota
	// StdRecords: crypto/tls.
	StdRecords
)

// wire is the byte stream below the frames. One goroutine receives, one at a
// time sends, any may close or set a deadline. Receiving may go on after a
// deadline. Only Close ends a write that waits.
type wire interface {
	Receive() ([][]byte, error)     // what there is, in pieces valid until the next call
	WriteBatch(*record.Batch) error // all of it
	// Begin is WriteBatch as far as it goes without waiting. If it reports
	// false, nothing else may be written before Finish has done the rest.
	Begin(*record.Batch) (done bool, err error)
	Finish() error
	CloseWrite() error // tells the peer that no more comes
	Close() error      // at once, whatever the socket has not sent
	Written() uint64   // bytes that the socket took; those of the handshake may be among them
	SetReadDeadline(time.Time) error
}

var _ wire = (*record.Conn)(nil)

// proof is what a handshake has shown.
type proof struct {
	peer          spiffeid.ID
	local, remote netip.AddrPort
	until         time.Time
	again         asked        // until, as it is when it is called; nil: never
	denied        func() error // why it may not go on; nil: nobody denies it
	rtt           roundTrip
	cipher        uint16
	group         tls.CurveID
	serial        string // of the peer's certificate, in hexadecimal
}

// secure shakes hands on a socket. If that fails, the caller closes the socket.
func secure(ctx context.Context, socket net.Conn, client bool, records Records, cred Credential) (wire, proof, error) {
	shake := std
	if records == OwnRecords && record.Supported() {
		shake = own
	}
	w, state, err := shake(ctx, socket, client, cred.Config)
	if err == nil {
		var p proof
		if p, err = prove(state, socket, cred); err == nil {
			return w, p, nil
		}
	}
	err = fmt.Errorf("%w: handshake with %v: %w", causeOf(err, ErrTLS), socket.RemoteAddr(), err)
	if len(state.PeerCertificates) > 0 {
		err = &shownError{err}
	}
	return nil, proof{}, err
}

// own leaves a tunnel to crypto/tls whose cipher is ChaCha20-Poly1305. That is
// chosen where either side has no AES instructions, and cannot be ruled out:
// crypto/tls has no setting for the ciphers of TLS 1.3.
func own(ctx context.Context, socket net.Conn, client bool, config *tls.Config) (wire, tls.ConnectionState, error) {
	shake := record.Server
	if client {
		shake = record.Client
	}
	w := &tlsWire{socket: tlsSocket{Conn: socket}}
	c, state, err := shake(ctx, &w.socket, config)
	var other *record.OtherCipher
	if errors.As(err, &other) {
		w.Conn = other.Conn
		w.begin()
		return w, state, nil
	}
	return c, state, err
}

// prove reads from a handshake who is there, and until when.
func prove(state tls.ConnectionState, socket net.Conn, cred Credential) (proof, error) {
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
	p := proof{peer: peer, rtt: tune(socket), cipher: state.CipherSuite, group: state.CurveID, serial: state.PeerCertificates[0].SerialNumber.Text(16)}
	p.local, p.remote = addresses(socket)
	if cred.Denied != nil {
		if err := cred.Denied(state, p.remote); err != nil {
			return proof{}, err
		}
		p.denied = deniedAgain(cred, state, p.remote)
	}
	if cred.Until != nil {
		p.until = cred.Until(state)
		p.again = asksAgain(cred, state)
	}
	return p, nil
}

// addresses are the two ends of a tunnel's socket.
func addresses(conn net.Conn) (local, remote netip.AddrPort) {
	return socket.AddrPort(conn.LocalAddr()), socket.AddrPort(conn.RemoteAddr())
}
