// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// parsing is an Issuer whose answers are parsed for each identity, as those of a Client.
type parsing struct{ *issuer }

func (p parsing) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
	issued, err := p.issuer.Issue(ctx, id, csr, ttl)
	for i, cert := range issued.Chain {
		if issued.Chain[i], err = x509.ParseCertificate(cert.Raw); err != nil {
			return Issued{}, err
		}
	}
	return issued, err
}

// A node has an identity in two kilobytes: key, leaf, and all that the store keeps of it.
// The goal is 3.5. Parsed by crypto/x509, the leaf alone takes 2.5; authorities are shared.
func TestAnIdentityTakesTwoKilobytes(t *testing.T) {
	const count, most = 1000, 2500
	source := parsing{&issuer{ca: newCA(t, td)}}
	r := New(Config{TrustDomain: td, Issuer: source, TTL: 24 * time.Hour, Log: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	first := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/first")
	t.Cleanup(r.Hold(first))
	valid := func(n int) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); r.Stats().Held[Valid] != n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%v", r.Stats())
			}
		}
		source.requests() // what the test keeps
	}
	valid(1)
	releases := make([]func(), count)
	t.Cleanup(func() {
		for _, release := range releases {
			release()
		}
	})
	before := heap()
	for i := range releases {
		releases[i] = r.Hold(spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/ns/namespace-%d/sa/account-%d", i%50, i)))
	}
	valid(count + 1)
	var each int64
	defer func() { t.Logf("%d bytes for each", each) }()
	waitFor(t, "an identity takes little", func() bool {
		each = (heap() - before) / count // what the last request took may be there still
		return each <= most
	})
}

// heap is what is in use, after all that is not was found.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
