// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAPodRemembersItsLastRefusalsAndNoMore(t *testing.T) {
	p := new(Pod)
	r := &p.refusals
	c := &connection{record: record{direction: outbound}}
	for i := range 3 * remembered {
		r.add(c, &outcome{word: Dial, err: errors.New(strings.Repeat("x", i+2*maxSaid))})
	}
	r.add(c, &outcome{word: Denied, policy: "AuthorizationPolicy shop/no"})
	all := p.LastRefused()
	if len(all) != remembered || cap(r.last) > 2*remembered {
		t.Fatalf("%d are remembered, of room for %d", len(all), cap(r.last))
	}
	if first, last := all[0], all[remembered-1]; len(first.Error) != maxSaid || last.Result != Denied || last.Policy == "" {
		t.Errorf("%+v, %+v", first, last)
	}
}

// An error of a handshake holds the peer's certificates.
func TestARefusalDoesNotKeepItsError(t *testing.T) {
	p := new(Pod)
	gone := make(chan struct{})
	func() {
		leaf := new(x509.Certificate)
		runtime.AddCleanup(leaf, func(struct{}) { close(gone) }, struct{}{})
		p.refusals.add(&connection{record: record{direction: outbound}}, &outcome{word: TLS, err: x509.UnknownAuthorityError{Cert: leaf}})
	}()
	for deadline := time.Now().Add(30 * time.Second); !closed(gone); runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("the certificate is still there")
		}
	}
	if all := p.LastRefused(); len(all) != 1 || !strings.Contains(all[0].Error, "unknown authority") {
		t.Errorf("%+v", all)
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func BenchmarkRefusalIsRemembered(b *testing.B) {
	p := new(Pod)
	c := &connection{record: record{direction: outbound}}
	o := &outcome{word: TLS, err: fail(TLS, fmt.Errorf("tunnel to %v: %w", "10.0.0.1:15008", x509.UnknownAuthorityError{}))}
	b.ReportAllocs()
	for b.Loop() {
		p.refusals.add(c, o)
	}
}
