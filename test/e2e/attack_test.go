// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// marks are that of ztunnel's legs to apps, and of Istio's.
var marks = []int{0x0c01ef7, 1337}

func mark(value int) agent.Option {
	return agent.Option{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Value: value}
}

// prey is two pods under STRICT, one on each node, and who is after them.
type prey struct {
	*story
	attacker  *lab.Pod // in the mesh, with CAP_NET_RAW and CAP_NET_ADMIN
	plain     *lab.Pod // likewise, but not in the mesh
	near, far *lab.Pod
}

func (s *story) prey() *prey {
	s.Helper()
	p := &prey{
		story: s, attacker: s.pod(s.one, "attacker", nil),
		plain: s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" }),
		near:  s.pod(s.one, "near", nil), far: s.pod(s.two, "far", nil),
	}
	s.serve(p.near.Place, agent.Echo, 8080)
	s.serve(p.far.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	return p
}

// attempt sends text to an echo server that it should not reach: connect() may end
// by a timeout, which is short.
func (s *story) attempt(from *lab.Place, socket agent.Socket, to netip.AddrPort, text string) error {
	s.Helper()
	return s.pingBy(from, socket, agent.Connect{To: to, Timeout: 300 * time.Millisecond}, text)
}

// pingBy sends text to an echo server by a socket of a kind.
func (s *story) pingBy(from *lab.Place, socket agent.Socket, how agent.Connect, text string) error {
	s.Helper()
	a, err := from.Agent()
	s.must(err)
	conn, err := a.DialWith(s.ctx, socket, how)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Ping(s.ctx, text)
}

// onlyAs asserts that whoever reached the pods did so as the attacker that it
// is, and whoever did not was denied, or failed to prove who it is.
func (p *prey) onlyAs(s *story) {
	s.Helper()
	id := p.attacker.SPIFFEID("cluster.local")
	for _, pod := range []*lab.Pod{p.near, p.far} {
		records, err := pod.Node.Records()
		s.must(err)
		for _, r := range records {
			if r.Get("direction") != "inbound" || r.Get("dst.workload") != pod.Name || r.Get("dst.namespace") != pod.Namespace {
				continue
			}
			who, word := r.Get("src.identity"), r.Get("result")
			if who != id && (who != "" || word != "denied" && word != "tls") {
				s.Errorf("to %v came %v", pod, r)
			}
		}
	}
}

func TestAForgedMarkIsNoWayPast(t *testing.T) {
	s := tell(t, "mesh")
	p := s.prey()
	s.overBoth(func(s *story, network string) {
		wire, err := s.Wire.Capture(s.ctx)
		s.must(err)
		for _, value := range marks {
			socket := agent.Socket{Network: network, Options: []agent.Option{mark(value)}}
			for _, pod := range []*lab.Pod{p.near, p.far} {
				to := pod.At(network, 8080)
				if err := s.pingBy(p.attacker.Place, socket, agent.Connect{To: to}, secret); err != nil {
					s.Errorf("a mark of %#x keeps a pod of the mesh from %v: %v", value, pod, err)
				}
				if err := s.attempt(p.plain.Place, socket, to, "plain"); err == nil {
					s.Errorf("plaintext with a mark of %#x came through to %v", value, pod)
				}
				s.record(pod.Node, "direction", "inbound", "dst.addr", to.String(), "src.workload", "plain", "result", "denied")
			}
		}
		s.must(wire.Stop())
		s.nothingPlain(wire, p.attacker, p.far)
		p.onlyAs(s)
	})
}

// A transparent socket claims any source. Its SYN comes from somebody who is not
// the pod, has published nothing under that address, and reaches nobody.
func TestATransparentSocketIsNobodyElse(t *testing.T) {
	s := tell(t, "mesh")
	p := s.prey()
	s.overBoth(func(s *story, network string) {
		option := agent.Option{Level: unix.SOL_IP, Name: unix.IP_TRANSPARENT, Value: 1}
		if network == "tcp6" {
			option = agent.Option{Level: unix.SOL_IPV6, Name: unix.IPV6_TRANSPARENT, Value: 1}
		}
		before, err := s.one.Records()
		s.must(err)
		// With our mark, the answers come back to the attacker.
		for _, options := range [][]agent.Option{{option}, {option, mark(marks[0])}} {
			for _, as := range []netip.Addr{p.near.At(network, 0).Addr(), p.far.At(network, 0).Addr(), s.one.Addr(network)} {
				socket := agent.Socket{Network: network, Bind: netip.AddrPortFrom(as, 0), Options: options}
				for _, pod := range []*lab.Pod{p.near, p.far} {
					if err := s.attempt(p.attacker.Place, socket, pod.At(network, 8080), secret); err == nil {
						s.Errorf("as %v the attacker came through to %v", as, pod)
					}
				}
			}
		}
		after, err := s.one.Records()
		s.must(err)
		for _, r := range after[len(before):] {
			s.Errorf("a claimed source led to %v", r)
		}
		p.onlyAs(s)
	})
}

// However a socket is made and connected, it is steered.
func TestNoDialectOfConnectLeavesInPlaintext(t *testing.T) {
	s := tell(t, "mesh")
	p := s.prey()
	s.overBoth(func(s *story, network string) {
		wire, err := s.Wire.Capture(s.ctx)
		s.must(err)
		a, err := p.attacker.Agent()
		s.must(err)
		to := p.far.At(network, 8080)
		mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
		for _, dialect := range []struct {
			what   string
			socket agent.Socket
			how    agent.Connect
		}{
			{"blocking", agent.Socket{Network: network}, agent.Connect{To: to, Blocking: true}},
			{"fast open", agent.Socket{Network: network}, agent.Connect{To: to, FastOpen: []byte(secret)}},
			{"multipath", agent.Socket{Network: network, MPTCP: true}, agent.Connect{To: to}},
			{"bound to a device", agent.Socket{Network: network, Device: "eth0"}, agent.Connect{To: to}},
			{"bound to loopback", agent.Socket{Network: network, Device: "lo"}, agent.Connect{To: to}},
			{"IPv6 socket", agent.Socket{Network: "tcp6"}, agent.Connect{To: mapped}},
			{"no route", agent.Socket{Network: network, Options: []agent.Option{{Level: unix.SOL_SOCKET, Name: unix.SO_DONTROUTE, Value: 1}}}, agent.Connect{To: to}},
		} {
			dialect.how.Timeout = time.Second
			conn, err := a.DialWith(s.ctx, dialect.socket, dialect.how)
			if err != nil {
				s.Logf("%s: refused: %v", dialect.what, err)
				continue
			}
			if len(dialect.how.FastOpen) > 0 {
				_, err = conn.ReceiveFull(s.ctx, len(secret))
			} else {
				err = conn.Ping(s.ctx, secret)
			}
			if err != nil {
				s.Errorf("%s: %v", dialect.what, err)
			}
			s.must(conn.Close())
		}
		s.must(wire.Stop())
		s.nothingPlain(wire, p.attacker, p.far)
		p.onlyAs(s)
	})
}
