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

// connects tries until connect() itself says what is wanted of a destination:
// that it is refused, or that it is not.
func (s *story) connects(from *lab.Pod, network string, to netip.AddrPort, refused bool) {
	s.Helper()
	what := "connect() succeeds"
	if refused {
		what = "connect() is refused"
	}
	s.eventually(what, func() bool {
		conn, err := from.Dial(s.ctx, network, to)
		if err == nil {
			conn.Close()
		}
		if errors.Is(err, syscall.ECONNRESET) { // by ztunnel, before the client looked at its connect()
			return false
		}
		return (err != nil) == refused
	})
}

// An app with two addresses for a name tries the second if connect() to the
// first fails; a connection that is reset later it takes for a server's answer.
func TestADeadAddressIsRefusedWhenItIsTriedAgain(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.overBoth(func(s *story, network string) {
		for _, to := range []netip.AddrPort{
			server.At(network, 8080),                        // in a tunnel: the peer says that nobody listens
			netip.AddrPortFrom(s.Outside.Addr(network), 81), // outside the mesh
		} {
			s.connects(client, network, to, true)
		}
		s.serve(server.Place, agent.Echo, 8080)
		s.connects(client, network, server.At(network, 8080), false) // a second later
		s.reached(client.Place, network, server, 8080)
	})
}

// What a policy refuses is refused by it, and recorded, each time.
func TestADenialIsNotTakenForADeadAddress(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("AuthorizationPolicy", s.namespace, "web", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"+
		"metadata: {name: web, namespace: "+s.namespace+"}\nspec: {selector: {matchLabels: {app: server}}, action: ALLOW}\n")
	for range 3 {
		conn, err := client.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
		if errors.Is(err, syscall.ECONNRESET) { // denied before the client looked
			continue
		}
		if err != nil {
			t.Fatalf("connect() itself failed: %v", err)
		}
		if err := conn.Ping(s.ctx, "ping"); err == nil {
			t.Error("was let through")
		}
		conn.Close()
	}
}

// The registry knows that nobody is ready behind a service before anybody asks.
func TestAServiceWithNobodyReadyIsRefusedAtConnect(t *testing.T) {
	s := tell(t, "mesh")
	client := s.pod(s.one, "client", nil)
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	service, err := s.Service(lab.ServiceSpec{
		Namespace: s.namespace, Name: "web", Selector: map[string]string{"app": "server"},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	})
	s.must(err)
	s.must(s.Settle(s.ctx))
	s.overBoth(func(s *story, network string) {
		vip := netip.AddrPortFrom(service.IP4, 80)
		if network == "tcp6" {
			vip = netip.AddrPortFrom(service.IP6, 80)
		}
		s.must(client.Ping(s.ctx, network, vip, "ping"))
		s.must(server.SetReady(false))
		s.must(s.Settle(s.ctx))
		s.connects(client, network, vip, true)
		s.must(server.SetReady(true))
		s.must(s.Settle(s.ctx))
		s.connects(client, network, vip, false)
		s.must(client.Ping(s.ctx, network, vip, "ping"))
	})
}
