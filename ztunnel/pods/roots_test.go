// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// turning is a CA whose root a test turns, and which says so on its streams.
type turning struct {
	mu     sync.Mutex
	root   *certstest.Signer // nil: it is away
	issued map[*certstest.Signer]int
	bundle certs.Bundle
	news   chan struct{}
}

const turningTTL = 12 * time.Second

func newTurning(root *certstest.Signer) *turning {
	return &turning{root: root, issued: map[*certstest.Signer]int{}, news: make(chan struct{})}
}

func (t *turning) Issue(_ context.Context, id spiffeid.ID, csr []byte, _ time.Duration) (certs.Issued, error) {
	block, _ := pem.Decode(csr)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return certs.Issued{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.root == nil {
		return certs.Issued{}, errors.New("away")
	}
	t.issued[t.root]++
	leaf := certstest.Mint(certstest.Leaf(id, certstest.Lasting(turningTTL)), public{request.PublicKey}, t.root)
	return certs.Issued{Chain: []*x509.Certificate{leaf.Cert}, Roots: []*x509.Certificate{t.root.Cert}}, nil
}

// public is the half of a key that a certificate needs.
type public struct{ key crypto.PublicKey }

func (p public) Public() crypto.PublicKey { return p.key }

func (p public) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { panic("not ours") }

func (t *turning) Follow(ctx context.Context, _ certs.Bundle, take func(certs.Bundle) error, _ func() []certs.Rest) error {
	for {
		t.mu.Lock()
		b, news := t.bundle, t.news
		t.mu.Unlock()
		if b.Generation > 0 {
			if err := take(b); err != nil {
				return err
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// turn has certificates be signed by root, and the bundle be roots.
func (t *turning) turn(root *certstest.Signer, roots ...*certstest.Signer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root = root
	t.bundle = certs.Bundle{Generation: t.bundle.Generation + 1}
	for _, r := range roots {
		t.bundle.Roots = append(t.bundle.Roots, r.Cert)
	}
	t.bundle.Hash = identity.BundleHash(t.bundle.Roots)
	close(t.news)
	t.news = make(chan struct{})
}

func (t *turning) signed(root *certstest.Signer) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.issued[root]
}

// pairOf are two pods of one identity that talk by tunnels, with a Store each.
type pairOf struct {
	t     *testing.T
	id    spiffeid.ID
	pool  *hbone.Pool
	ln    *hbone.Listener
	key   hbone.Key
	ends  chan error // of streams, at both ends
	moved atomic.Int64
	work  sync.WaitGroup
}

func newPair(t *testing.T, by certs.Issuer) *pairOf {
	t.Helper()
	p := &pairOf{t: t, id: spiffeid.RequireFromPath(domain, "/ns/shop/sa/web"), ends: make(chan error, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	socket, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p.key = hbone.Key{Dst: p.id, Addr: socket.Addr().(*net.TCPAddr).AddrPort()}
	near := p.store(by, func() { p.pool.Retire(hbone.Rotated) }, func() { p.pool.Reprove() })
	far := p.store(by, func() { p.ln.Retire(hbone.Rotated) }, func() { p.ln.Reprove() })
	p.ln = hbone.NewListener(socket, hbone.ListenerConfig{Credential: func(ctx context.Context) (hbone.Credential, error) {
		return credential(far.ServerPair(ctx, p.id))
	}})
	p.pool = hbone.NewPool(hbone.PoolConfig{
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
		},
		Credential: func(ctx context.Context, key hbone.Key) (hbone.Credential, error) {
			return credential(near.ClientPair(ctx, p.id, key.Dst))
		},
	})
	for _, run := range []func(context.Context) error{near.Run, far.Run, p.ln.Run} {
		p.work.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	p.work.Go(func() { p.accept(ctx) })
	releaseNear, releaseFar := near.Hold(p.id), far.Hold(p.id)
	t.Cleanup(func() {
		releaseNear()
		releaseFar()
		p.pool.Close()
		p.ln.Close()
		cancel()
		p.work.Wait()
	})
	return p
}

func (p *pairOf) store(by certs.Issuer, onRotate, onBundle func()) *certs.Store {
	return certs.New(certs.Config{
		TrustDomain: domain, Issuer: by, TTL: turningTTL, Log: slog.New(slog.DiscardHandler),
		OnRotate: func(spiffeid.ID) { onRotate() }, OnBundle: onBundle, OnDeny: onBundle,
	})
}

func (p *pairOf) accept(ctx context.Context) {
	for {
		s, err := p.ln.Accept(ctx)
		if err != nil {
			return
		}
		p.work.Go(func() {
			if s.Accept() != nil {
				return
			}
			p.carry(s, func(app *net.TCPConn) { io.Copy(app, app) })
		})
	}
}

// open opens a stream whose app says and hears without end.
func (p *pairOf) open() {
	p.t.Helper()
	s, err := p.pool.Open(p.t.Context(), p.key, hbone.Target{Authority: netip.AddrPortFrom(p.key.Addr.Addr(), 8080)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.work.Go(func() {
		p.carry(s, func(app *net.TCPConn) {
			said, heard := make([]byte, 4096), make([]byte, 4096)
			for {
				if _, err := app.Write(said); err != nil {
					return
				}
				if _, err := io.ReadFull(app, heard); err != nil {
					return
				}
				p.moved.Add(1)
				time.Sleep(2 * time.Millisecond) // a pace, not a wait
			}
		})
	})
}

func (p *pairOf) carry(s *hbone.Stream, app func(*net.TCPConn)) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		p.t.Error(err)
		return
	}
	defer ln.Close()
	dialed, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		p.t.Error(err)
		return
	}
	defer dialed.Close()
	near, err := ln.AcceptTCP()
	if err != nil {
		p.t.Error(err)
		return
	}
	go app(dialed)
	over := make(chan error, 1)
	s.Carry(near, func(_ hbone.Totals, err error) { over <- err })
	p.ends <- <-over
}

// until waits for ok, and fails if a stream ends meanwhile.
func (p *pairOf) until(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		select {
		case err := <-p.ends:
			p.t.Fatalf("before %s a stream ended: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

func (p *pairOf) flows(when string) {
	p.t.Helper()
	from := p.moved.Load()
	p.until("bytes move "+when, func() bool { return p.moved.Load() > from+200 })
}

// Laws 3 and 6, with streams under load: a root is added, all move to it, and the old
// one is dropped: nobody notices. What does not hold any more ends at once, as
// denied at both ends. A001-21, T-ROOT in small.
func TestStreamsOutliveTheirRootAndEndWithTheLast(t *testing.T) {
	const streams = 20
	first, second, third := certstest.NewCA(), certstest.Mint(certstest.Authority("second"), certstest.NewKey(elliptic.P256()), nil),
		certstest.Mint(certstest.Authority("third"), certstest.NewKey(elliptic.P256()), nil)
	ca := newTurning(first)
	ca.turn(first, first)
	p := newPair(t, ca)
	for range streams {
		p.open()
	}
	p.flows("at first")

	ca.turn(second, first, second)
	p.flows("with a root more")
	p.until("both ends have a certificate of the new root", func() bool { return ca.signed(second) >= 2 })
	p.open() // by a younger tunnel, in which both ends prove themselves anew
	p.until("the tunnels of the old root have ended, or rest on a younger one", func() bool { return ca.signed(second) >= 4 })
	p.open()
	p.flows("by the new root")

	ca.turn(second, second)
	p.flows("after the old root was dropped")

	ca.turn(nil, third)
	dropped := env.NewStopwatch()
	var ends []error
	for len(ends) < 2*(streams+2) {
		select {
		case err := <-p.ends:
			ends = append(ends, err)
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d ends", len(ends), 2*(streams+2))
		}
	}
	if took := dropped.Elapsed(); took > turningTTL/3 { // the certificates would last for half of it at least
		t.Errorf("the streams ended within %v", took)
	}
	if slices.ContainsFunc(ends, func(err error) bool { return !errors.Is(err, hbone.ErrDenied) }) {
		t.Errorf("streams ended with %v", ends)
	}
}
