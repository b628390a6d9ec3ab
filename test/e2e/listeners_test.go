// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/elliptic"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// standIns are where nobody but ztunnel listens in a pod.
var standIns = []netip.Prefix{netip.MustParsePrefix("240.0.0.0/8"), netip.MustParsePrefix("100:0:0:1::/64")}

// listeners are ztunnel's addresses in the pod's netns.
func (s *story) listeners(p *lab.Pod) (found []netip.AddrPort) {
	s.Helper()
	text, err := p.Run(s.ctx, "cat", "/proc/self/net/tcp", "/proc/self/net/tcp6")
	s.must(err)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line) // sl local_address rem_address st ..., proc_net_tcp.txt
		if len(fields) < 4 || fields[3] != "0A" {
			continue
		}
		at := procAddr(s, fields[1])
		if slices.ContainsFunc(standIns, func(p netip.Prefix) bool { return p.Contains(at.Addr()) }) {
			found = append(found, at)
		}
	}
	return found
}

// procAddr reads an address as /proc writes it: words in host order, a port.
func procAddr(s *story, text string) netip.AddrPort {
	s.Helper()
	ip, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(ip + port)
	s.must(err)
	words := raw[:len(raw)-2]
	for i := 0; i < len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	addr, _ := netip.AddrFromSlice(words)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(raw[len(raw)-2:]))
}

func TestZtunnelsOwnListenersServeNobodyDirectly(t *testing.T) {
	s := tell(t, "mesh")
	target, peer := s.pod(s.one, "target", nil), s.pod(s.two, "peer", nil)
	s.serve(target.Place, agent.Echo, 8080)
	own := s.listeners(target)
	if len(own) != 6 {
		t.Fatalf("ztunnel listens at %v in the pod, want 6: outbound, plaintext, HBONE, IPv4 and IPv6", own)
	}
	before, err := s.one.Records()
	s.must(err)
	attempts := 0
	try := func(who *lab.Place, to netip.AddrPort) {
		attempts++
		if err := s.attempt(who, agent.Socket{Network: "tcp"}, to, secret); err == nil {
			t.Errorf("%s got an echo of %v", who.Cgroup, to)
		}
	}
	for _, at := range own {
		try(target.Place, at) // steered, and ztunnel cannot reach it either
		network := "tcp4"
		if at.Addr().Is6() {
			network = "tcp6"
		}
		for _, from := range []*lab.Place{target.Place, peer.Place, s.Outside.Place, s.one.Host} {
			try(from, target.At(network, at.Port()))
			try(from, target.At(network, 15008))
		}
	}
	words := map[string]int{}
	s.eventually("the attempts are recorded", func() bool {
		after, err := s.one.Records()
		s.must(err)
		clear(words)
		for _, r := range after[len(before):] {
			words[r.Get("result")]++
		}
		return words["self_call"] > 0 && words["dial"] > 0 && words["tls"] > 0
	})
	sum := 0
	for word, count := range words {
		if sum += count; word == "ok" {
			t.Errorf("%d attempts ended well", count)
		}
	}
	t.Logf("%d attempts were recorded as %v", attempts, words)
	if sum > 2*attempts {
		t.Errorf("%d records of %d attempts: they went round", sum, attempts)
	}
	s.overBoth(func(s *story, network string) {
		s.record(s.two, "direction", "outbound", "dst.hbone_addr", target.At(network, 15008).String(), "result", "dial")
		s.reached(peer.Place, network, target, 8080)
	})
}

// A001-5: and so on the wire.
func TestOnlyACertificateOfTheMeshOpensATunnel(t *testing.T) {
	s := tell(t, "mesh")
	p := s.prey()
	var apps []*agent.Listener // take no tunnel from ztunnel
	s.overBoth(func(s *story, network string) {
		a, err := p.far.Agent()
		s.must(err)
		app, err := a.Serve(s.ctx, agent.Server{Socket: agent.Socket{Network: network, Bind: p.far.At(network, 15008)}, Kind: agent.Echo})
		s.must(err)
		apps = append(apps, app)
	})
	forged := forge(p.attacker.SPIFFEID("cluster.local"))
	s.overBoth(func(s *story, network string) {
		for _, who := range []struct {
			what string
			cert []tls.Certificate
			says string
		}{
			{"no certificate", nil, "certificate required"},
			{"a certificate of its own making", []tls.Certificate{forged}, "certificate"},
		} {
			raw, err := p.plain.Dial(s.ctx, network, p.far.At(network, 15008))
			s.must(err)
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: who.cert})
			s.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
			s.must(conn.HandshakeContext(s.ctx)) // in TLS 1.3, the server has yet to look
			_, err = conn.Read(make([]byte, 1))
			if err == nil || !strings.Contains(err.Error(), who.says) {
				s.Errorf("with %s: %v, want an alert", who.what, err)
			}
			s.must(raw.Close())
			s.record(s.two, "direction", "inbound", "src.addr", raw.Local().String(), "path", "tunnel", "result", "tls", "response_flags", "TLS_FAILURE")
		}
		s.reached(p.attacker.Place, network, p.far, 8080)
		p.onlyAs(s)
	})
	for _, app := range apps {
		if served, err := app.Served(s.ctx); err != nil || len(served) > 0 {
			t.Errorf("an app on port 15008 was given %v, %v", served, err)
		}
	}
}

// forge makes a certificate that says what ours say, but is signed by another CA.
func forge(id string) tls.Certificate {
	leaf := certstest.Leaf(spiffeid.RequireFromString(id))
	return certstest.Mint(leaf, certstest.NewKey(elliptic.P256()), nil).TLS()
}
