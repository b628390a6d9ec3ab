// SPDX-License-Identifier: Apache-2.0

// Package signingtest is a signer for tests: on a real socket, with a key in memory.
package signingtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-mesh/culvert/identity/signing"
)

// Signer is one whose key a test may take away, and bring again.
type Signer struct {
	URI string

	mu  sync.Mutex // guards what follows
	key crypto.Signer
	err error

	hangs chan struct{} // until it is closed; nil: it answers
}

// Serve runs a signer with a key until the test ends.
func Serve(t testing.TB, key crypto.Signer) *Signer {
	t.Helper()
	s := &Signer{URI: "unix:" + filepath.Join(t.TempDir(), "s"), key: key}
	ln, err := net.Listen("unix", strings.TrimPrefix(s.URI, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- signing.Serve(ctx, ln, s.open) }()
	t.Cleanup(func() {
		s.Hangs(false)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Signer) open() (crypto.Signer, error) {
	s.mu.Lock()
	hangs := s.hangs
	s.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key, s.err
}

// Hangs has the signer accept whoever asks, and answer nobody, until it is called anew.
func (s *Signer) Hangs(hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case hangs && s.hangs == nil:
		s.hangs = make(chan struct{})
	case !hangs && s.hangs != nil:
		close(s.hangs)
		s.hangs = nil
	}
}

// Has changes the key, or takes it away for the reason in err. It returns the former one.
func (s *Signer) Has(key crypto.Signer, err error) (former crypto.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former, s.key, s.err = s.key, key, err
	return former
}

// Key is a reference to the signer's key.
func (s *Signer) Key(t testing.TB) *signing.Key {
	t.Helper()
	key, err := signing.Ask(t.Context(), s.URI)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// P256 makes a key.
func P256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
