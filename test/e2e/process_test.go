// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const batchID = "spiffe://cluster.local/ns/legacy/sa/batch"

// A000-7: a process on a host that the cluster does not know reaches a pod by mutual TLS,
// as who an operator said that it is. A plain client with the three files is all that it
// takes.
func TestAProcessOutsideKubernetesReachesAPodAsWhoItJoinedAs(t *testing.T) {
	tokens, out := t.TempDir(), filepath.Join(t.TempDir(), "identity")
	s := tellAlone(t, lab.Options{IdentityArgs: []string{"-join-tokens", tokens}}, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))

	token, _, err := join.Create(s.ctx, join.Directory(tokens), join.Options{Identity: spiffeid.RequireFromString(batchID), TTL: 10 * time.Minute})
	s.must(err)
	file := filepath.Join(t.TempDir(), "token")
	s.must(os.WriteFile(file, []byte(token.Text()), 0o600))
	culvert := filepath.Join(filepath.Dir(s.Outside.App()), "culvert")
	run := func(name, out string) *lab.Process {
		proc, err := s.Outside.Start(name, culvert, "identity", "run", "--ca", s.Identity.Addr.String(),
			"--ca-server-name", "culvert-identity.culvert-system.svc", "--ca-root", s.Identity.Root, "--join-token", file, "--out", out)
		s.must(err)
		return proc
	}
	run("process", out)
	var mine tls.Certificate
	s.eventually("the process has joined", func() bool {
		mine, err = tls.LoadX509KeyPair(filepath.Join(out, "svid.pem"), filepath.Join(out, "svid.key"))
		return err == nil
	})
	bundle, err := os.ReadFile(filepath.Join(out, "bundle.pem"))
	s.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	want := spiffeid.RequireFromString(server.SPIFFEID("cluster.local"))

	s.overBoth(func(s *story, network string) {
		to := server.At(network, 8080)
		s.must(s.echoByHBONE(server.At(network, 15008), to, tunnelConfig(&mine, roots, want)))
		s.record(s.two, "direction", "inbound", "dst.hbone_addr", to.String(), "src.identity", batchID, "path", "tunnel", "result", "ok")

		// The refused twins: without a certificate, and in plaintext.
		if err := s.echoByHBONE(server.At(network, 15008), to, tunnelConfig(nil, roots, want)); err == nil {
			s.Error("a client without a certificate got an echo")
		}
		if err := s.Outside.Ping(s.ctx, network, to, "ping"); err == nil {
			s.Error("plaintext got an echo under STRICT")
		}
	})

	// One token, one process: a second one on that host has another key.
	second := run("second", filepath.Join(t.TempDir(), "second"))
	select {
	case <-second.Done():
	case <-time.After(20 * time.Second):
		t.Error("a second process goes on with a token that is redeemed")
	}
}

// tunnelConfig is what a plain TLS client needs for HBONE. Names are SPIFFE IDs, so that
// the client verifies by itself.
func tunnelConfig(own *tls.Certificate, roots *x509.CertPool, want spiffeid.ID) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, c := range state.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
				return err
			}
			id, err := identity.FromCertificate(state.PeerCertificates[0])
			if err == nil && id != want {
				err = errors.New("the server is " + id.String())
			}
			return err
		},
	}
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	return config
}

// echoByHBONE opens a tunnel from the outside host, and in it one stream to an echo.
func (s *story) echoByHBONE(tunnel, to netip.AddrPort, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	raw, err := s.Outside.DialUnsteered(ctx, tunnel)
	if err != nil {
		return err
	}
	conn := tls.Client(raw, config)
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	//lint:ignore SA1019 http.Transport sends no CONNECT in HTTP/2 over a connection that it is given
	client, err := new(http2.Transport).NewClientConn(conn)
	if err != nil {
		return err
	}
	defer client.Close()
	fromApp, toApp := io.Pipe()
	request := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Host: to.String()}, Host: to.String(), Header: http.Header{}, Body: fromApp, ContentLength: -1}).WithContext(ctx)
	response, err := client.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	const message = "as who I am"
	if _, err := io.WriteString(toApp, message); err != nil {
		return err
	}
	toApp.Close()
	got, err := io.ReadAll(response.Body)
	if err == nil && string(got) != message {
		err = errors.New("the echo is " + string(got))
	}
	return err
}
