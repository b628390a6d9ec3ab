// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// A002-4: any protocol over TCP, those in which the server speaks first too.
func TestAServerMaySpeakFirst(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		to := p.target()
		p.serve(p.server.Place, agent.SpeakFirst, to.Port())
		conn, err := p.client.Dial(p.ctx, p.network, to)
		p.must(err)
		defer conn.Close()
		// The port is that of ztunnel's leg, which the client cannot know.
		greeting, err := readLine(p.ctx, conn)
		p.must(err)
		if want := fmt.Sprintf("you are %v", p.client.At(p.network, 0).Addr()); !strings.HasPrefix(strings.NewReplacer("[", "", "]", "").Replace(greeting), want+":") {
			p.Errorf("greeted with %q, want %q", greeting, want)
		}
		p.must(conn.Ping(p.ctx, "hello yourself"))
		p.must(conn.Close())
		p.carried(to, int64(len("hello yourself")), int64(len(greeting)+len("hello yourself")))
	})
}

// A003-1: who is denied hears nothing of the app.
func TestARefusedClientIsNotGreeted(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.SpeakFirst, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.overBoth(func(s *story, network string) {
		conn, err := s.Outside.Dial(s.ctx, network, server.At(network, 8080))
		if err == nil {
			defer conn.Close()
			var greeting string
			greeting, err = readLine(s.ctx, conn)
			if greeting != "" {
				s.Errorf("greeted with %q", greeting)
			}
		}
		wantReset(s.T, "what the client read", err)
		s.record(s.two, "direction", "inbound", "dst.addr", server.At(network, 8080).String(),
			"path", "passthrough", "result", "denied", "policy", "PeerAuthentication "+s.namespace+"/default")
	})
}

// readLine reads up to a line's end, or an error.
func readLine(ctx context.Context, conn *agent.Conn) (line string, err error) {
	for !strings.HasSuffix(line, "\n") {
		b, err := conn.Receive(ctx, 1)
		if err != nil {
			return line, err
		}
		line += string(b)
	}
	return line, nil
}

// A002-5: an app's own TLS is carried as any bytes. It gets no label of its own.
func TestAppsMaySpeakTLSOfTheirOwn(t *testing.T) {
	const name, secret = "inner.example", "a secret within a secret"
	cert, roots := appCertificate(name)
	s := tell(t, "mesh")
	wire, err := s.Wire.Capture(s.ctx)
	s.must(err)
	s.overPaths(func(p *path) {
		near, far, to := p.connected()
		group, ctx := errgroup.WithContext(p.ctx)
		group.Go(func() error {
			app := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
			if err := app.HandshakeContext(ctx); err != nil {
				return fmt.Errorf("server's handshake: %w", err)
			}
			if _, err := io.Copy(app, app); err != nil {
				return fmt.Errorf("echo: %w", err)
			}
			return errors.Join(app.CloseWrite(), far.CloseWrite())
		})
		app := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: name})
		p.must(app.HandshakeContext(p.ctx))
		if got := app.ConnectionState().PeerCertificates[0]; !bytes.Equal(got.Raw, cert.Certificate[0]) {
			p.Errorf("the client was shown another certificate: %v", got.Subject)
		}
		_, err := io.WriteString(app, secret)
		p.must(err)
		p.must(errors.Join(app.CloseWrite(), near.CloseWrite()))
		got, err := io.ReadAll(app)
		p.must(err)
		if string(got) != secret {
			p.Errorf("echoed %q", got)
		}
		p.must(group.Wait())
		p.must(errors.Join(near.Close(), far.Close()))
		p.ended(to, "ok")
	})
	s.must(wire.Stop())
	// The app's handshake names its server in the clear: in its pod, not on the wire.
	for _, text := range []string{name, secret} {
		if found, err := wire.Contains([]byte(text)); found || err != nil {
			t.Errorf("%q on the wire: %v, %v", text, found, err)
		}
	}
}

func TestAnAppThatDistrustsItsPeerSaysSoInItsOwnTLS(t *testing.T) {
	const name = "inner.example"
	cert, _ := appCertificate(name)
	_, others := appCertificate(name)
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		near, far, to := p.connected()
		served := make(chan error, 1)
		go func() {
			err := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}}).HandshakeContext(p.ctx)
			served <- errors.Join(err, far.Close())
		}()
		err := tls.Client(near, &tls.Config{RootCAs: others, ServerName: name}).HandshakeContext(p.ctx)
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) {
			p.Errorf("client: %v, want that the authority is unknown", err)
		}
		var alert *net.OpError
		if err := <-served; !errors.As(err, &alert) || alert.Op != "remote error" {
			p.Errorf("server: %v, want the client's alert", err)
		}
		// What the server had still to say is unread: closed now, the client's
		// socket would be reset.
		p.must(near.CloseWrite())
		_, err = io.Copy(io.Discard, near)
		p.must(errors.Join(err, near.Close()))
		p.ended(to, "ok")
	})
}

// appCertificate is an app's certificate and the roots that vouch for it.
func appCertificate(name string) (tls.Certificate, *x509.CertPool) {
	own := certstest.Mint(certstest.Authority(name, func(c *x509.Certificate) {
		c.DNSNames, c.KeyUsage = []string{name}, 0
	}), certstest.NewKey(elliptic.P256()), nil)
	return own.TLS(), own.Pool()
}

func TestBytesOfAnySizeArriveBothWaysAtOnce(t *testing.T) {
	sizes := []int64{64 << 10, 1 << 20, 64 << 20}
	if told.name != "" {
		sizes = sizes[:2] // for the time that crypto in Go alone takes
	}
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		for _, size := range sizes {
			p.exchange(size)
		}
		// For its time, over one IP version each.
		if far := p.server.Node != p.client.Node; !testing.Short() && told.name == "" && far == (p.network == "tcp6") {
			p.exchange(1 << 30)
		}
	})
}

// exchange has both ends send size bytes at once, and compares what arrived.
func (p *path) exchange(size int64) {
	p.Helper()
	near, far, to := p.connected()
	var fromClient, fromServer, atClient, atServer string
	var took time.Duration
	group, ctx := errgroup.WithContext(p.ctx)
	group.Go(func() error {
		got, err := near.Transfer(ctx, agent.Transfer{Send: size, Seed: 1, Receive: -1, Timeout: time.Minute})
		fromClient, atClient, took = got.SentHash, got.ReceivedHash, got.Elapsed
		return err
	})
	group.Go(func() error {
		got, err := far.Transfer(ctx, agent.Transfer{Send: size, Seed: 2, Receive: -1, Timeout: time.Minute})
		fromServer, atServer = got.SentHash, got.ReceivedHash
		return err
	})
	p.must(group.Wait())
	p.must(errors.Join(near.Close(), far.Close()))
	if fromClient == fromServer || atServer != fromClient || atClient != fromServer {
		p.Errorf("%d bytes: client sent %.8s and server got %.8s, server sent %.8s and client got %.8s",
			size, fromClient, atServer, fromServer, atClient)
	}
	p.carried(to, size, size)
	p.Logf("%d KiB each way in %v: %.1f Gbit/s", size>>10, took.Round(time.Millisecond), 2*8*float64(size)/took.Seconds()/1e9)
}
