// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// A001-22: a pod that comes is found by the next connection, whatever tunnels there are.
func TestAServiceLeadsToItsReadyPodsOnly(t *testing.T) {
	s := tell(t, "mesh")
	client := s.pod(s.one, "client", nil)
	web := func(p *lab.PodSpec) {
		p.Labels["tier"] = "web"
		p.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	}
	// The same port name, another number: a Service's target port is each pod's own.
	moved := func(p *lab.PodSpec) { web(p); p.Ports[0].ContainerPort = 9090 }
	unready := func(p *lab.PodSpec) { web(p); p.Unready = true }
	near, far, down := s.pod(s.one, "near", web), s.pod(s.two, "far", moved), s.pod(s.two, "down", unready)
	s.serve(near.Place, agent.Echo, 8080)
	s.serve(far.Place, agent.Echo, 9090)
	s.must(down.SetReady(false))
	service, err := s.Service(lab.ServiceSpec{
		Namespace: s.namespace, Name: "web", Selector: map[string]string{"tier": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
	})
	s.must(err)
	s.must(s.Settle(s.ctx))

	s.overBoth(func(s *story, network string) {
		vip := netip.AddrPortFrom(service.IP4, 80)
		if network == "tcp6" {
			vip = netip.AddrPortFrom(service.IP6, 80)
		}
		for range 40 {
			s.must(client.Ping(s.ctx, network, vip, "hello"))
		}
		spread := map[string]int{}
		s.eventually("all connections are on record", func() bool {
			clear(spread)
			records, err := s.one.Records()
			s.must(err)
			n := 0
			for _, r := range records {
				at, _ := netip.ParseAddrPort(field(r, "target"))
				if r.Get("direction") == "outbound" && r.Get("src.namespace") == s.namespace &&
					r.Get("dst.service") != "" && at.Addr().Is4() == vip.Addr().Is4() && r.Get("result") == "ok" {
					spread[r.Get("dst.workload")]++
					n++
				}
			}
			return n == 40
		})
		if spread["near"] < 5 || spread["far"] < 5 || spread["down"] != 0 {
			s.Errorf("40 connections went to %v", spread)
		}
		wrong := netip.AddrPortFrom(vip.Addr(), 81)
		if err := client.Ping(s.ctx, network, wrong, "hello"); !errors.Is(err, syscall.ECONNRESET) {
			s.Errorf("to a port that the service does not have: %v, want a reset", err)
		}
		s.record(s.one, "dst.addr", wrong.String(), "result", "dial")
	})

	s.must(near.SetReady(false))
	s.must(far.SetReady(false))
	s.must(s.Settle(s.ctx))
	vip := netip.AddrPortFrom(service.IP4, 80)
	if err := client.Ping(s.ctx, "tcp4", vip, "hello"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("to a service with nobody ready: %v, want connect() refused", err)
	}
}

func TestAHeadlessServicesPodsAreReachedByTheirAddresses(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	_, err := s.Service(lab.ServiceSpec{
		Namespace: s.namespace, Name: "db", Selector: map[string]string{"app": "server"}, Headless: true,
		Ports: []corev1.ServicePort{{Port: 8080}},
	})
	s.must(err)
	s.must(s.Settle(s.ctx))
	s.overBoth(func(s *story, network string) {
		s.reached(client.Place, network, server, 8080)
		s.record(s.one, "dst.hbone_addr", server.At(network, 8080).String(), "path", "tunnel", "result", "ok")
	})
}
