// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

func listening(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// reversing answers, after the end of what it reads, with as many bytes.
func reversing(t *testing.T) string {
	ln := listening(t)
	go accept(ln, func(conn *net.TCPConn) {
		defer conn.Close()
		n, _ := io.Copy(io.Discard, conn)
		_, _ = conn.Write(bytes.Repeat([]byte{'y'}, int(n)))
	})
	return ln.Addr().String()
}

// halves sends, closes its half, and wants the other half whole.
func halves(t *testing.T, via string) {
	t.Helper()
	conn, err := net.Dial("tcp", via)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	const size = 3 << 20
	go func() {
		_, _ = conn.Write(make([]byte, size))
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(conn)
	if err != nil || len(back) != size {
		t.Errorf("%d of %d bytes came back: %v", len(back), size, err)
	}
}

func TestRelayKeepsTheOtherHalfOpen(t *testing.T) {
	ln := listening(t)
	go Relay(ln, reversing(t))
	halves(t, ln.Addr().String())
}

func TestTunnelKeepsTheOtherHalfOpen(t *testing.T) {
	cfg := selfSigned(t)
	gate, door := listening(t), listening(t)
	go Leave(gate, cfg)
	go Enter(door, gate.Addr().String(), reversing(t), cfg)
	for range 3 {
		halves(t, door.Addr().String())
	}
}

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"bench.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool,
		ServerName: "bench.test", ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
	}
}
