// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

var (
	here  = spiffeid.RequireTrustDomainFromString("here.example")
	other = spiffeid.RequireTrustDomainFromString("other.example")
)

func authority(t *testing.T, td spiffeid.TrustDomain) *ca.CA {
	t.Helper()
	c, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// neighbour is another trust domain with an endpoint of https_spiffe.
type neighbour struct {
	*ca.CA
	url string

	mu     sync.Mutex // guards what follows
	answer http.HandlerFunc
	asked  int
}

func newNeighbour(t *testing.T, td spiffeid.TrustDomain) *neighbour {
	t.Helper()
	n := &neighbour{CA: authority(t, td)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.asked++
		answer := n.answer
		n.mu.Unlock()
		answer(w, r)
	}))
	certificate, err := n.EndpointCertificate()(nil)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	n.url = server.URL
	n.says(t, 1, n.Roots()...)
	return n
}

// says has the endpoint answer with a bundle.
func (n *neighbour) says(t *testing.T, sequence uint64, roots ...*x509.Certificate) {
	t.Helper()
	b := spiffebundle.FromX509Authorities(n.TrustDomain(), roots)
	b.SetSequenceNumber(sequence)
	b.SetRefreshHint(MinRefresh)
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	n.does(func(w http.ResponseWriter, _ *http.Request) { w.Write(text) })
}

func (n *neighbour) does(answer http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

// rig is a CA that federates with neighbours.
type rig struct {
	*testing.T
	ca          *ca.CA
	file, state string
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	return &rig{T: t, ca: authority(t, here), file: filepath.Join(dir, "federation.yaml"), state: filepath.Join(dir, "state")}
}

// pem writes certificates into a file of its own.
func (r *rig) pem(name string, certs ...*x509.Certificate) string {
	r.Helper()
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	path := filepath.Join(filepath.Dir(r.file), name)
	r.write(path, string(text))
	return path
}

func (r *rig) write(path, text string) {
	r.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

// spiffe is an entry for a neighbour.
func (r *rig) spiffe(n *neighbour) string {
	r.Helper()
	id, _ := ca.EndpointID(n.TrustDomain())
	begin := r.pem(n.TrustDomain().Name()+".pem", n.Roots()...)
	return fmt.Sprintf("- {trustDomain: %s, url: %q, profile: https_spiffe, endpointSPIFFEID: %q, bundleFile: %q}\n", n.TrustDomain(), n.url, id, begin)
}

// open returns a Federation that does not run.
func (r *rig) open() *Federation {
	r.Helper()
	f, err := New(Options{CA: r.ca, File: r.file, State: r.state, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		r.Fatal(err)
	}
	return f
}

// attempt fetches the bundle of a domain once.
func (r *rig) attempt(f *Federation, td spiffeid.TrustDomain) error {
	_, err := f.followers[td].attempt(r.Context())
	return err
}

// told is what nodes are told of a domain.
func (r *rig) told(td spiffeid.TrustDomain) (ca.Foreign, bool) {
	for _, f := range r.ca.Federated().All {
		if f.TrustDomain == td {
			return f, true
		}
	}
	return ca.Foreign{}, false
}

// wants checks the sequence that nodes are told.
func (r *rig) wants(td spiffeid.TrustDomain, sequence uint64, roots int) {
	r.Helper()
	if f, is := r.told(td); !is || f.Sequence != sequence || len(f.Roots) != roots {
		r.Errorf("nodes are told of %v: %d with %d roots, want %d with %d", td, f.Sequence, len(f.Roots), sequence, roots)
	}
}

func (r *rig) refused(err error, says string) {
	r.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		r.Errorf("%v, want %q", err, says)
	}
}

// runs runs f until the test or stop ends.
func (r *rig) runs(f *Federation) (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Error(err)
		}
	})
	r.Cleanup(stop)
	return stop
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("never: %s", what)
		}
	}
}
