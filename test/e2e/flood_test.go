// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509/pkix"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// forgeDear is a forged chain that is as dear to check as can be: eight
// certificates under one name, each of which might have signed each other.
func forgeDear(id string) tls.Certificate {
	last := certstest.Mint(certstest.Authority("x"), certstest.NewKey(elliptic.P521()), nil)
	chain := [][]byte{last.Cert.Raw}
	for len(chain) < 7 {
		last = certstest.Mint(certstest.Authority("x"), certstest.NewKey(elliptic.P521()), last)
		chain = append([][]byte{last.Cert.Raw}, chain...)
	}
	template := certstest.Leaf(spiffeid.RequireFromString(id))
	template.Subject = pkix.Name{CommonName: "x"}
	leaf := certstest.Mint(template, certstest.NewKey(elliptic.P521()), last)
	return tls.Certificate{Certificate: append([][]byte{leaf.Cert.Raw}, chain...), PrivateKey: leaf.Key}
}

// flood has a pod outside the mesh shake hands with another, many times at once,
// until stop; it returns how often it was refused.
func (s *story) flood(from *lab.Pod, to netip.AddrPort, cert tls.Certificate) (stop func() int64) {
	ctx, cancel := context.WithCancel(s.ctx)
	var all sync.WaitGroup
	var refused atomic.Int64
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				raw, err := from.DialUnsteered(ctx, to)
				if err != nil {
					continue
				}
				raw.SetDeadline(time.Now().Add(20 * time.Second))
				conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}})
				if conn.HandshakeContext(ctx) == nil {
					if _, err := conn.Read(make([]byte, 1)); err != nil {
						refused.Add(1)
					}
				}
				raw.Close()
				time.Sleep(50 * time.Millisecond) // some 100 a second in all
			}
		})
	}
	return func() int64 { cancel(); all.Wait(); return refused.Load() }
}

func TestAFloodOfForgedChainsIsRefusedUncheckedAndStopsNobody(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	plain := s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	for _, p := range []*lab.Pod{client, server} {
		s.serve(p.Place, agent.Echo, 8080)
	}
	s.reached(client.Place, "tcp4", server, 8080)
	stop := s.flood(plain, server.At("tcp4", 15008), forgeDear(client.SPIFFEID("cluster.local")))
	var longest time.Duration
	for range 200 {
		begin := time.Now()
		s.reached(client.Place, "tcp4", server, 8080)
		longest = max(longest, time.Since(begin))
	}
	begin := time.Now()
	late := s.pod(s.one, "late", nil)
	began := time.Now()
	s.reached(late.Place, "tcp4", server, 8080)
	t.Logf("200 connections took %v at most; the first of a pod that was started meanwhile in %v took %v",
		longest, began.Sub(begin), time.Since(began))
	if n := stop(); n == 0 {
		t.Error("nobody was refused: that was no flood")
	} else {
		t.Logf("%d were refused", n)
	}
	from := plain.At("tcp4", 0).Addr().String() + ":"
	if r := s.record(s.two, "direction", "inbound", "src.addr", from, "path", "tunnel", "result", "tls"); !strings.Contains(r.Get("error"), "not checked") {
		t.Errorf("they were refused because: %s", r.Get("error"))
	}
}
