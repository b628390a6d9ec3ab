// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// probed is a pod on node one, under STRICT, with probes of its ports 8080 and
// 8081, and another port.
type probed struct {
	*lab.Pod
	tcp *agent.Listener
}

func (s *story) probed() *probed {
	s.Helper()
	p := &probed{Pod: s.pod(s.one, "probed", func(spec *lab.PodSpec) {
		spec.Ports = append(spec.Ports, lab.ContainerPort("web", 8080))
		spec.Readiness, spec.Liveness = lab.HTTPProbe("web"), lab.TCPProbe("8081")
	})}
	p.tcp = s.serve(p.Place, agent.Echo, 8081)
	s.serve(p.Place, agent.HTTP, 8080)
	s.serve(p.Place, agent.Echo, 8082)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	return p
}

// probe sends what the kubelet of the pod's node sends.
func (s *story) probe(p *probed, network string) {
	s.Helper()
	kubelet, err := p.Node.Kubelet.Agent()
	s.must(err)
	url := "http://" + p.At(network, 8080).String() + "/"
	if answer, err := kubelet.Get(s.ctx, agent.Request{URL: url}); err != nil || answer.Status != 200 {
		s.Errorf("probe of %s: %+v, %v", url, answer, err)
	}
	conn, err := kubelet.Dial(s.ctx, network, p.At(network, 8081))
	if err != nil {
		s.Errorf("probe of %v: %v", p.At(network, 8081), err)
		return
	}
	s.must(conn.Ping(s.ctx, "probe"))
	served, err := p.tcp.Served(s.ctx)
	s.must(err)
	if got := served[len(served)-1].Peer; netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) != conn.Local() {
		s.Errorf("the app was probed from %v, want the kubelet's own %v", got, conn.Local())
	}
	s.must(conn.Close())
}

func TestProbesReachTheirPortsUnderStrictWithoutUs(t *testing.T) {
	s := tell(t, "mesh")
	p := s.probed()
	s.overBoth(func(s *story, network string) {
		for range 10 {
			s.probe(p, network)
		}
		records, err := s.one.Records()
		s.must(err)
		for _, r := range records {
			if to := r.AddrPort("dst.addr"); to == p.At(network, 8080) || to == p.At(network, 8081) {
				s.Errorf("a probe passed through ztunnel: %v", r)
			}
		}
	})
}

func TestOnlyTheKubeletReachesProbePortsAndNoOthers(t *testing.T) {
	s := tell(t, "mesh")
	p := s.probed()
	s.overBoth(func(s *story, network string) {
		for _, wrong := range []struct {
			who  string
			from *lab.Place
			port uint16
		}{
			{"the kubelet, to a port without a probe", s.one.Kubelet, 8082},
			{"another process of the node", s.one.Host, 8080},
			{"another process of the node", s.one.Host, 8081},
			{"the kubelet of another node", s.two.Kubelet, 8081},
		} {
			s.refused(wrong.from, network, p.Pod, wrong.port)
			r := s.record(s.one, "direction", "inbound", "dst.addr", p.At(network, wrong.port).String(), "result", "denied")
			if r.Get("src.identity") != "" {
				s.Errorf("%s has an identity: %v", wrong.who, r)
			}
		}
	})
}

// A kubelet that is restarted has another cgroup at the same path. ztunnel
// lives on, and so do the pods: a liveness probe that fails kills them.
func TestProbesPassAgainWithinSecondsOfAKubeletsRestart(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	p := s.probed()
	s.probe(p, "tcp4")
	s.must(s.one.Kubelet.Restart(s.ctx))
	s.eventually("the kubelet is known again", func() bool {
		return s.one.Kubelet.Ping(s.ctx, "tcp4", p.At("tcp4", 8081), "probe") == nil
	})
	child, err := s.one.Kubelet.Below("container")
	s.must(err)
	s.overBoth(func(s *story, network string) {
		s.probe(p, network)
		// Its refused twins: what the kubelet itself runs, as k3s does with
		// containers, and everyone else.
		s.refused(child, network, p.Pod, 8081)
		s.refused(s.one.Host, network, p.Pod, 8081)
	})

	// A ztunnel that starts without a kubelet says so, and waits for it.
	s.must(s.one.Kubelet.Restart(s.ctx))
	s.must(os.Remove(s.one.Kubelet.Cgroup))
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.logged(s.one, `"level":"warn"`, "the kubelet's cgroup is not found", s.one.Kubelet.Cgroup)
	if s.kubeletFound(s.one) {
		s.Error("the metrics say that there is a kubelet")
	}
	s.must(os.Mkdir(s.one.Kubelet.Cgroup, 0o755))
	s.eventually("the kubelet is known", func() bool { return s.kubeletFound(s.one) })
	s.logged(s.one, "the kubelet's cgroup is found")
	s.eventually("the pod is enrolled", func() bool {
		return s.one.Kubelet.Ping(s.ctx, "tcp4", p.At("tcp4", 8081), "probe") == nil
	})
	s.overBoth(func(s *story, network string) {
		s.probe(p, network)
		s.refused(s.one.Host, network, p.Pod, 8081)
	})
}

func (s *story) kubeletFound(n *lab.Node) bool {
	s.Helper()
	_, body, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15020/metrics")
	s.must(err)
	return strings.Contains(body, "\nculvert_kubelet_cgroup_found 1\n")
}

// A probe's 4-tuple is let through for the one connection it was published
// for, however that ended.
func TestAProbesTupleServesNobodyElse(t *testing.T) {
	s := tell(t, "mesh")
	p := s.probed()
	kubelet, err := s.one.Kubelet.Agent()
	s.must(err)
	other, err := s.one.Host.Agent()
	s.must(err)
	for i, end := range []struct {
		how   string
		probe func(from, to netip.AddrPort)
	}{
		{"reset by the kubelet", func(from, to netip.AddrPort) {
			s.must(s.from(kubelet, from, to).Reset())
		}},
		{"closed by the app first", func(from, to netip.AddrPort) {
			s.must(p.tcp.Close())
			app, err := p.Agent()
			s.must(err)
			any6 := netip.AddrPortFrom(netip.IPv6Unspecified(), to.Port())
			ln, err := app.Listen(s.ctx, agent.Socket{Network: "tcp6", Bind: any6})
			s.must(err)
			near := s.from(kubelet, from, to)
			far, err := ln.Accept(s.ctx)
			s.must(errors.Join(err, far.Close()))
			if _, err := near.Receive(s.ctx, 1); !errors.Is(err, io.EOF) {
				s.Errorf("the app closed, the kubelet got %v", err)
			}
			s.must(errors.Join(near.Close(), ln.Close())) // TIME_WAIT is the pod's now
			p.tcp = s.serve(p.Place, agent.Echo, 8081)
		}},
		{"refused by the pod", func(from, to netip.AddrPort) {
			s.must(p.tcp.Close())
			_, err = kubelet.DialWith(s.ctx, agent.Socket{Network: "tcp", Bind: from}, agent.Connect{To: to})
			if !errors.Is(err, syscall.ECONNREFUSED) {
				s.Errorf("probe of a closed port: %v", err)
			}
			p.tcp = s.serve(p.Place, agent.Echo, 8081)
		}},
	} {
		t.Run(end.how, func(t *testing.T) {
			sub := *s
			sub.T = t
			sub.overBoth(func(s *story, network string) {
				// No ephemeral port: nobody else has it.
				from, to := netip.AddrPortFrom(s.one.Addr(network), uint16(20000+i)), p.At(network, 8081)
				end.probe(from, to)
				conn, err := other.DialWith(s.ctx, agent.Socket{Network: "tcp", Bind: from}, agent.Connect{To: to})
				if err == nil {
					err = conn.Ping(s.ctx, "me again")
					s.must(conn.Close())
				}
				if err == nil {
					s.Errorf("another process of the node was let through from %v", from)
				}
				s.record(s.one, "direction", "inbound", "src.addr", from.String(), "dst.addr", to.String(), "result", "denied")
			})
		})
	}
}

// from connects from a given address and port.
func (s *story) from(a *agent.Client, from, to netip.AddrPort) *agent.Conn {
	s.Helper()
	conn, err := a.DialWith(s.ctx, agent.Socket{Network: "tcp", Bind: from}, agent.Connect{To: to})
	s.must(err)
	return conn
}

// Whoever may create a pod must not have the kubelet say to a STRICT pod what
// the pod may not say itself. To the kernel both come from the kubelet, so the
// port is exempt for neither.
func TestAProbeOfAnotherPodIsNoWayPastStrict(t *testing.T) {
	s := tell(t, "mesh")
	p := s.probed()
	kubelet, err := s.one.Kubelet.Agent()
	s.must(err)
	attacker := s.pod(s.one, "attacker", func(spec *lab.PodSpec) {
		spec.Labels["culvert.dev/mesh"] = "disabled"
		spec.Liveness = lab.HTTPProbe("8080")
		spec.Liveness.HTTPGet.Host = p.IP4.String()
	})
	s.must(s.Settle(s.ctx))
	to := p.At("tcp4", 8080)
	get := func() error {
		_, err := kubelet.Get(s.ctx, agent.Request{URL: "http://" + to.String() + "/shutdown"})
		return err
	}
	s.eventually("the probe is refused", func() bool { return get() != nil })
	s.record(s.one, "direction", "inbound", "dst.addr", to.String(), "result", "denied")
	s.refused(s.one.Kubelet, "tcp6", p.Pod, 8080)
	conn, err := kubelet.Dial(s.ctx, "tcp4", p.At("tcp4", 8081)) // another port of the same pod
	s.must(err)
	s.must(errors.Join(conn.Ping(s.ctx, "probe"), conn.Close()))
	s.logged(s.one, "a probe names another host", attacker.Namespace+"/attacker", to.String())
	s.logged(s.one, "probes of a port are not exempt", attacker.Namespace+"/attacker", attacker.Namespace+"/probed")
	if s.counted(s.one, "culvert_foreign_probes_total") == 0 {
		t.Error("not counted")
	}

	s.must(attacker.Delete(s.ctx))
	s.must(s.Settle(s.ctx))
	s.eventually("the pod's own probe passes again", func() bool { return get() == nil })
}
