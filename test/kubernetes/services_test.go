// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serviceCases are what one address of a Service leads to. Each is asked from a pod outside
// of the mesh, whose connections kube-proxy leads, and from one in the mesh, which ztunnel
// does, both on the same node: the pods that answer, or how there is no answer.
var serviceCases = []serviceCase{
	{"a cluster IP", "node1", "tcp", "web:80", "a b c", ""},
	{"another port of it", "node1", "tcp", "web:81", "a:8083 b:8083 c:8083", ""},
	{"a name for a port, which has another number in one pod", "node1", "tcp", "web:82", "a b c:8083", ""},
	{"a port that the Service lacks", "node1", "tcp", "web:99", "refused", "reset"},
	{"a UDP port, which is kube-proxy's for both", "node1", "udp", "web:80", "a b c", ""},
	{"no cluster IP: the names of pods", "node1", "tcp", "c.headless:8080", "c", ""},
	{"the name of another Service", "node1", "tcp", "alias:80", "a b c", ""},

	{"internalTrafficPolicy Local, two on the node", "node1", "tcp", "internal-local:80", "a b", ""},
	{"internalTrafficPolicy Local, one on the node", "node2", "tcp", "internal-local:80", "c", ""},
	{"internalTrafficPolicy Local, the only one on the node", "node2", "tcp", "internal-local-lone:80", "lone", ""},
	{"internalTrafficPolicy Local, none on the node", "node1", "tcp", "internal-local-lone:80", "timeout", "reset"},
	{"internalTrafficPolicy Local, by an external IP", "node1", "tcp", "198.51.100.2:80", "lone", ""},

	{"IPv6, a cluster IP", "node1", "tcp", "web/6:80", "a b c", ""},
	{"IPv6, internalTrafficPolicy Local", "node1", "tcp", "internal-local/6:80", "a b", ""},
	{"IPv6, externalTrafficPolicy Local, a port of the own node", "node2", "tcp", "node2/6:30012", "a b c", ""},
	{"IPv6, nobody on that port", "node1", "tcp", "web/6:99", "refused", "reset"},

	{"an external IP", "node1", "tcp", "198.51.100.1:80", "a b c", ""},
	{"a load balancer's address", "node1", "tcp", "198.51.100.11:80", "a b c", ""},
	{"a node port, of the own node", "node1", "tcp", "node1:30011", "a b c", ""},
	{"a node port, of another node", "node1", "tcp", "node2:30011", "a b c", ""},
	{"externalTrafficPolicy Local, the cluster IP", "node1", "tcp", "external-local:80", "a b c", ""},
	{"externalTrafficPolicy Local, the load balancer's address", "node1", "tcp", "198.51.100.12:80", "a b c", ""},
	{"externalTrafficPolicy Local, a port of the own node", "node1", "tcp", "node1:30012", "a b c", ""},
	{"externalTrafficPolicy Local, a port of another node", "node1", "tcp", "node2:30012", "c timeout", "c"},
	{"externalTrafficPolicy Local, a port of another node", "node2", "tcp", "node1:30012", "a b timeout", "a b"},
	{"externalTrafficPolicy Local, none on the node, the load balancer's address", "node1", "tcp", "198.51.100.13:80", "lone", ""},
	{"externalTrafficPolicy Local, none on the node, a port of it", "node1", "tcp", "node1:30013", "lone", ""},
	{"externalTrafficPolicy Local, none on another node, a port of that", "node2", "tcp", "node1:30013", "timeout", "reset"},
	{"healthCheckNodePort, where there is an endpoint", "node2", "tcp", "node1:30022", "{", ""},
	{"loadBalancerSourceRanges, a client in them", "node1", "tcp", "198.51.100.14:80", "a b c", ""},
	{"loadBalancerSourceRanges, a client in none", "node2", "tcp", "198.51.100.14:80", "timeout", "reset"},
	{"loadBalancerSourceRanges, by the cluster IP", "node2", "tcp", "ranges:80", "a b c", ""},
	{"loadBalancerSourceRanges, by a node port", "node2", "tcp", "node2:30014", "a b c", ""},
	{"ipMode Proxy: the load balancer's own address", "node1", "tcp", "outsider:80", "refused", ""},

	{"trafficDistribution PreferClose", "node1", "tcp", "close:80", "a b", ""},
	{"trafficDistribution PreferSameZone", "node2", "tcp", "same-zone:80", "c", ""},
	{"trafficDistribution PreferSameNode", "node1", "tcp", "same-node:80", "a b", ""},
	{"trafficDistribution PreferSameNode, none on the node", "node1", "tcp", "same-node-lone:80", "lone", ""},
	{"hints for zones, this one", "node1", "tcp", "hinted:80", "a", ""},
	{"hints for zones, that one", "node2", "tcp", "hinted:80", "c", ""},
	{"hints for zones of some endpoints", "node1", "tcp", "hinted-in-part:80", "a c", ""},

	{"nobody is ready", "node1", "tcp", "unready:80", "refused", ""},
	{"publishNotReadyAddresses", "node1", "tcp", "unready-published:80", "unready", ""},
	{"one of two terminates", "node1", "tcp", "half:80", "stays", ""},
	{"the only one terminates, and serves", "node1", "tcp", "leaving:80", "leaving", ""},

	{"no selector: what an EndpointSlice says", "node1", "tcp", "by-hand:80", "b:8083", ""},
	{"no selector: an address outside of the cluster", "node1", "tcp", "outside:80", "400", ""},
}

type serviceCase struct {
	name, from, network, to string
	want                    string
	meshed                  string // what is wanted in the mesh, if that is something else
}

// times is how many connections tell who answers: that 24 miss one of three has a chance of
// one in five thousand. Of rejected ones the kernel tells at most six at once.
func (c serviceCase) times() int {
	if c.want == "refused" || c.want == "timeout" {
		return 3
	}
	return 24
}

// A Service means the same to a pod in the mesh as to one that kube-proxy serves, but for
// the differences that docs/services.md has.
func TestServicesMeanWhatTheyMeanToKubeProxy(t *testing.T) {
	s := makeServices(startMesh(useShared(t)))
	for _, c := range serviceCases {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			address := s.address(c.to)
			number := strings.TrimPrefix(c.from, "node")
			var plain, meshed string
			eventually(t, func() error {
				plain, meshed = s.askBoth(number, c.times(), 0, c.network, address)
				if c.meshed == "reset" && (meshed == "refused" || meshed == "refused reset") {
					meshed = "reset" // the first; for a second after it, connect() is refused
				}
				if plain != c.want || meshed != cmp.Or(c.meshed, c.want) {
					return fmt.Errorf("%s from %s (%s): kube-proxy leads to %q, ztunnel to %q", c.to, c.from, address, plain, meshed)
				}
				return nil
			})
			t.Logf("%s from %s: kube-proxy: %s; ztunnel: %s", c.to, c.from, plain, meshed)
		})
	}
	t.Run("sessionAffinity ClientIP", func(t *testing.T) { s.in(t).keepTheirClients() })
	t.Run("from outside", func(t *testing.T) { s.in(t).letOutsidersIn() })
}

// keepTheirClients: a client that comes again within the two seconds of the Service sticky
// finds the same pod, and one that stays away for longer finds another some time.
func (s *services) keepTheirClients() {
	address := s.address("sticky:80")
	var plain, meshed string
	eventually(s.t, func() error { // a slow machine may be away for longer, too
		plain, meshed = s.askBoth("1", 20, 100*time.Millisecond, "tcp", address)
		for who, answer := range map[string]string{"kube-proxy": plain, "ztunnel": meshed} {
			if !slices.Contains([]string{"a", "b", "c"}, answer) {
				return fmt.Errorf("within the timeout %s leads to %s", who, answer)
			}
		}
		return nil
	})
	plainLeft, meshedLeft := false, false
	for range 20 { // by chance to the same one each time: once in a billion tests
		time.Sleep(2500 * time.Millisecond)
		p, m := s.askBoth("1", 1, 0, "tcp", address)
		plainLeft, meshedLeft = plainLeft || p != plain, meshedLeft || m != meshed
		if plainLeft && meshedLeft {
			return
		}
	}
	s.t.Errorf("with pauses beyond the timeout the pod changed: by kube-proxy %v, by ztunnel %v", plainLeft, meshedLeft)
}

// letOutsidersIn: what comes to a node port from outside of the cluster is kube-proxy's, and
// arrives in plaintext. PERMISSIVE pods let it in, STRICT ones refuse it and say why.
func (s *services) letOutsidersIn() {
	for _, c := range []struct{ to, want string }{
		{"node1:30011", "a b c"}, {"node1:30012", "a b"}, {"node2:30012", "c"}, {"node2/6:30012", "c"}, {"node1:30013", "nothing"},
	} {
		eventually(s.t, func() error {
			if got := s.askFromOutside(c.to); got != c.want {
				return fmt.Errorf("from outside %s leads to %q, want %q", c.to, got, c.want)
			}
			return nil
		})
	}
	s.apply(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict}, spec: {mtls: {mode: STRICT}}}`)
	eventually(s.t, func() error {
		plain, meshed := s.askBoth("1", 24, 0, "tcp", s.address("web:80"))
		if got := s.askFromOutside("node1:30012"); got != "nothing" || plain != "reset" || meshed != "a b c" {
			return fmt.Errorf("under STRICT: from outside %q, from a pod outside of the mesh %q, from one in it %q", got, plain, meshed)
		}
		return nil
	})
	eventually(s.t, func() error {
		for _, r := range s.records("node1") {
			from, _, _ := net.SplitHostPort(fmt.Sprint(r["src.addr"]))
			if from == outsider && r["result"] == "denied" && r["policy"] == "PeerAuthentication services/strict" {
				return nil
			}
		}
		return errors.New("node1 has no record of what it refused from outside")
	})
}

// askFromOutside makes many connections to a node's port from the machine that leads the
// nodes' network, which is no node, and returns the pods that answered.
func (s *services) askFromOutside(to string) string {
	nodes := strconv.Itoa(supervisor(s.t, s.name))
	seen := make(map[string]bool)
	for range 24 {
		curl := exec.Command("nsenter", "--net=/proc/"+nodes+"/ns/net", "curl", "--silent", "--max-time", "3", "http://"+s.address(to))
		out, _ := curl.Output()
		answer := who(strings.TrimSpace(string(out)))
		if seen[answer] = true; answer == "nothing" {
			break
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}
