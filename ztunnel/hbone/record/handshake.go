// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
)

// Supported reports whether this process may use the package. In FIPS 140-3 mode
// records are for crypto/tls, whose GCM is the approved one.
func Supported() bool { return !fips140.Enabled() }

// Client shakes hands as the client on socket. The Config is crypto/tls's, but
// the result is always TLS 1.3 with AES-GCM, without resumption. When it fails,
// the caller closes the socket, unless it goes on with the Conn of an OtherCipher; the
// ConnectionState then has the certificates that the peer had shown.
//
// The ConnectionState is not kept: it holds the peer's certificates and much else.
// Of a socket with a NetConn, the Conn goes on with that.
func Client(ctx context.Context, socket net.Conn, config *tls.Config) (*Conn, tls.ConnectionState, error) {
	return shake(ctx, socket, config, true)
}

// Server is Client for the other side.
func Server(ctx context.Context, socket net.Conn, config *tls.Config) (*Conn, tls.ConnectionState, error) {
	return shake(ctx, socket, config, false)
}

// shake has the secrets come to a writer that this one handshake owns. They are
// used only when crypto/tls is content with the peer: the client's traffic secret
// exists before the server has seen the client's certificate.
func shake(ctx context.Context, socket net.Conn, config *tls.Config, client bool) (*Conn, tls.ConnectionState, error) {
	var log secrets
	defer log.forget()
	private, err := log.config(config)
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	exact := &exactSocket{Conn: socket, buf: buffers.Take(0)}
	var conn *tls.Conn
	if client {
		conn = tls.Client(exact, private)
	} else {
		conn = tls.Server(exact, private)
	}
	err = conn.HandshakeContext(ctx)
	state := conn.ConnectionState()
	if err != nil {
		return nil, state, err
	}
	s := suites[state.CipherSuite]
	switch {
	case state.Version != tls.VersionTLS13:
		return nil, state, fmt.Errorf("%w: %s", ErrUnsupported, tls.VersionName(state.Version))
	case state.DidResume:
		return nil, state, fmt.Errorf("%w: resumed session", ErrUnsupported)
	case s == nil:
		exact.over = true
		return nil, state, &OtherCipher{conn}
	case exact.left != 0:
		return nil, state, errors.New("handshake ended within a record")
	}
	if wrapped, ok := socket.(interface{ NetConn() net.Conn }); ok {
		socket = wrapped.NetConn()
	}
	c := newConn(socket, client)
	in, out := log.server.bytes(), log.client.bytes()
	if !client {
		in, out = out, in
	}
	if err := errors.Join(c.in.begin(s, in), c.out.begin(s, out)); err != nil {
		return nil, state, fmt.Errorf("derive traffic keys: %v", err)
	}
	c.buf, c.r, c.w = exact.buf, exact.r, exact.w
	c.settle()
	return c, state, nil
}

// secrets is a tls.Config.KeyLogWriter that keeps the two traffic secrets, in
// the NSS format that crypto/tls promises. It sees one handshake, and no other
// goroutine's writes.
type secrets struct{ client, server secret }

type secret struct {
	b [sha512.Size384]byte
	n int
}

func (s *secret) bytes() []byte { return s.b[:s.n] }

func (l *secrets) Write(line []byte) (int, error) {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	var s *secret
	switch string(label) {
	case "CLIENT_TRAFFIC_SECRET_0":
		s = &l.client
	case "SERVER_TRAFFIC_SECRET_0":
		s = &l.server
	default:
		return len(line), nil
	}
	_, digits, _ := bytes.Cut(rest, []byte(" ")) // behind the client random
	digits = bytes.TrimSuffix(digits, []byte("\n"))
	if s.n != 0 || hex.DecodedLen(len(digits)) > len(s.b) {
		return 0, fmt.Errorf("second or long %s", label)
	}
	n, err := hex.Decode(s.b[:], digits)
	if err != nil {
		return 0, fmt.Errorf("read %s: malformed", label)
	}
	s.n = n
	return len(line), nil
}

func (l *secrets) forget() { *l = secrets{} }

// config is a copy for one handshake that logs to l. No ticket is asked for, nor
// sent: a server's would be a record under the traffic keys that we did not count.
func (l *secrets) config(config *tls.Config) (*tls.Config, error) {
	switch {
	case !Supported():
		return nil, fmt.Errorf("%w: FIPS 140-3 mode", ErrUnsupported)
	case config.GetConfigForClient != nil:
		return nil, errors.New("tls.Config.GetConfigForClient would choose another Config")
	}
	private := config.Clone()
	private.KeyLogWriter = l
	private.MinVersion, private.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	private.SessionTicketsDisabled = true
	private.DynamicRecordSizingDisabled = true // for an OtherCipher, whose tls.Conn goes on
	private.ClientSessionCache = nil
	return private, nil
}

// exactSocket gives crypto/tls one record at a time, so that nothing that comes
// behind the handshake ends up in the tls.Conn. What it has read ahead is the
// Conn's to open, or the tls.Conn's if that goes on.
type exactSocket struct {
	net.Conn
	buf  *buffer.Buffer
	r, w int  // read and not handed over: buf.Bytes[r:w]
	left int  // bytes of the record to hand over, header included
	over bool // the handshake: the tls.Conn goes on
}

func (s *exactSocket) Read(p []byte) (int, error) {
	if s.over {
		return s.readOn(p)
	}
	for s.r == s.w || s.left == 0 && s.w-s.r < headerSize {
		s.w = copy(s.buf.Bytes, s.buf.Bytes[s.r:s.w])
		s.r = 0
		n, err := s.Conn.Read(s.buf.Bytes[s.w:])
		s.w += n
		if n == 0 && err != nil {
			return 0, err
		}
	}
	if s.left == 0 {
		s.left = headerSize + int(binary.BigEndian.Uint16(s.buf.Bytes[s.r+3:]))
	}
	n := copy(p, s.buf.Bytes[s.r:min(s.w, s.r+s.left)])
	s.r += n
	s.left -= n
	return n, nil
}

// readOn hands over what was read ahead, then is the socket's Read.
func (s *exactSocket) readOn(p []byte) (int, error) {
	if s.r == s.w {
		if s.buf != nil {
			s.buf.Release()
			s.buf = nil
		}
		return s.Conn.Read(p)
	}
	n := copy(p, s.buf.Bytes[s.r:s.w])
	s.r += n
	return n, nil
}
