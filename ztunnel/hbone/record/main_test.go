// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// patience bounds what a test waits for.
const patience = 30 * time.Second

// identity is one self-signed certificate that both sides of all tests use.
var identity = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	own := certstest.Mint(certstest.Authority("peer", func(c *x509.Certificate) {
		c.DNSNames, c.KeyUsage = []string{"peer"}, c.KeyUsage|x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}), certstest.NewKey(elliptic.P256()), nil)
	return own.TLS(), own.Pool()
})

// config serves both roles, with mutual authentication.
func config() *tls.Config {
	cert, roots := identity()
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: roots, ClientCAs: roots, ServerName: "peer",
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
		CurvePreferences: []tls.CurveID{tls.X25519}, DynamicRecordSizingDisabled: true,
	}
}

// writeIdentity puts the certificate where OpenSSL reads it.
func writeIdentity(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	cert, _ := identity()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// sockets is the two ends of a TCP connection on loopback.
func sockets(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	dialled := make(chan net.Conn, 1)
	go func() {
		conn, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialled <- conn
	}()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far = (<-dialled).(*net.TCPConn), accepted.(*net.TCPConn)
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	for _, end := range []*net.TCPConn{near, far} {
		end.SetDeadline(time.Now().Add(patience))
	}
	return near, far
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// pair is our record layer on both ends.
func pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	near, far := sockets(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		var err error
		if server, _, err = Server(context.Background(), far, config()); err != nil {
			t.Error(err)
		}
	})
	client, _, err := Client(context.Background(), near, config())
	if err != nil {
		t.Fatal(err)
	}
	serving.Wait()
	if server == nil {
		t.FailNow()
	}
	return client, server
}

// mixed is ours on one end, as the client or the server, and crypto/tls on the other.
func mixed(t testing.TB, client bool, theirs *tls.Config) (*Conn, *tls.Conn) {
	t.Helper()
	near, far := sockets(t)
	ours, peer := Client, tls.Server(far, theirs)
	if !client {
		ours, peer = Server, tls.Client(far, theirs)
	}
	var shaking sync.WaitGroup
	shaking.Go(func() {
		if err := peer.Handshake(); err != nil {
			t.Error(err)
		}
	})
	conn, _, err := ours(context.Background(), near, config())
	if err != nil {
		t.Fatal(err)
	}
	shaking.Wait()
	return conn, peer
}

// forger is a peer of a Conn that says what a TLS stack would not.
type forger struct {
	t      testing.TB
	socket *net.TCPConn
	out    half
	in     *Conn // reads what the Conn says
}

// forge is a Conn and its forger, which are given their keys without a handshake.
func forge(t testing.TB, client bool) (*Conn, *forger) {
	t.Helper()
	near, far := sockets(t)
	return forgeOn(t, client, near, far)
}

func forgeOn(t testing.TB, client bool, near net.Conn, far *net.TCPConn) (*Conn, *forger) {
	t.Helper()
	c, f := newConn(near, client), &forger{t: t, socket: far, in: newConn(far, !client)}
	s := suites[tls.TLS_AES_128_GCM_SHA256]
	to, from := make([]byte, s.secretSize), make([]byte, s.secretSize)
	rand.Read(to)
	rand.Read(from)
	for half, secret := range map[*half][]byte{&c.in: to, &f.out: to, &c.out: from, &f.in.in: from} {
		if err := half.begin(s, secret); err != nil {
			t.Fatal(err)
		}
	}
	return c, f
}

// record is a well sealed one with any content and padding.
func (f *forger) record(kind byte, content []byte, padding int) []byte {
	inner := append(append([]byte(nil), content...), kind)
	return f.seal(append(inner, make([]byte, padding)...))
}

// seal seals any inner plaintext.
func (f *forger) seal(inner []byte) []byte {
	n := len(inner) + tagSize
	rec := []byte{typeApplicationData, 3, 3, byte(n >> 8), byte(n)}
	return f.out.aead.Seal(rec, f.out.next(), inner, rec)
}

func (f *forger) data(s string) []byte { return f.record(typeApplicationData, []byte(s), 0) }

func (f *forger) keyUpdate(request byte) []byte {
	rec := f.record(typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	if err := f.out.update(); err != nil {
		f.t.Fatal(err)
	}
	return rec
}

func (f *forger) send(records ...[]byte) {
	f.t.Helper()
	for _, rec := range records {
		if _, err := f.socket.Write(rec); err != nil {
			f.t.Fatal(err)
		}
	}
}
