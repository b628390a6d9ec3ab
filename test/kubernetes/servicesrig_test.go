// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"
)

// servicePods are the pods behind the Services: name, node, label app, and the number of
// their port http.
var servicePods = [][4]string{
	{"a", "node1", "web", "8080"}, {"b", "node1", "web", "8080"}, {"c", "node2", "web", "8083"},
	{"lone", "node2", "lone", "8080"}, {"unready", "node1", "unready", "8080"},
	{"goes", "node1", "half", "8080"}, {"stays", "node2", "half", "8080"}, {"leaving", "node1", "leaving", "8080"},
	{"plain1", "node1", "plain", "8080"}, {"meshed1", "node1", "meshed", "8080"},
	{"plain2", "node2", "plain", "8080"}, {"meshed2", "node2", "meshed", "8080"},
}

// services are the pods and Services of a test, in a namespace of their own.
type services struct {
	*mesh
	ips map[string]string // of pods, nodes and Services, by name
}

// outsider is the address of the machine that leads the nodes' network: no node, and no
// other part of the cluster. The API server is there.
const outsider = "192.168.77.1"

const inServices = "--namespace=services"

func (s *services) in(t *testing.T) *services {
	return &services{&mesh{&running{t, s.name, s.binaries}}, s.ips}
}

func makeServices(m *mesh) *services {
	m.t.Helper()
	s := &services{m, make(map[string]string)}
	m.mustKubectl("label", "node", "node1", "topology.kubernetes.io/zone=east")
	m.mustKubectl("label", "node", "node2", "topology.kubernetes.io/zone=west")
	m.mustKubectl("create", "namespace", "services")
	m.mustKubectl("label", "namespace", "services", "culvert.dev/mesh=enabled")
	m.t.Cleanup(func() {
		m.mustKubectl("label", "node", "--all", "topology.kubernetes.io/zone-")
		s.endLeaving()
		m.mustKubectl("delete", "pods", "--all", "--grace-period=1", inServices)
		m.mustKubectl("delete", "namespace", "services")
	})
	eventually(m.t, func() error { _, err := m.kubectl("get", "serviceaccount", "default", inServices); return err })
	s.apply(podsYAML())
	m.mustKubectl("wait", "--for=condition=Ready", "pods", "--selector=app!=unready", "--timeout=120s", inServices)
	s.learn("pods", "{.status.podIPs[*].ip}", inServices)
	s.learn("nodes", `{.status.addresses[?(@.type=="InternalIP")].address}`)
	s.ips["outsider"] = outsider
	s.ips["pods1"] = m.mustKubectl("get", "node", "node1", "--output=jsonpath={.spec.podCIDR}")
	s.applyServices()
	m.mustKubectl("delete", "pod", "goes", "leaving", "--wait=false", inServices)
	m.awaitEnrolled("services")
	return s
}

// applyServices makes the Services, and is the load balancer of those that want one.
func (s *services) applyServices() {
	s.t.Helper()
	text, err := template.ParseFiles("testdata/services.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	var yaml strings.Builder
	if err := text.Execute(&yaml, s.ips); err != nil {
		s.t.Fatal(err)
	}
	s.apply(yaml.String())
	for service, ingress := range map[string]string{
		"external": `{"ip":"198.51.100.11"}`, "external-local": `{"ip":"198.51.100.12"}`, "external-local-lone": `{"ip":"198.51.100.13"}`,
		"ranges": `{"ip":"198.51.100.14"}`, "proxied": `{"ip":"` + outsider + `","ipMode":"Proxy"}`,
	} {
		s.mustKubectl("patch", "service", service, "--subresource=status", `--patch={"status":{"loadBalancer":{"ingress":[`+ingress+`]}}}`, inServices)
	}
	s.learn("services", "{.spec.clusterIPs[*]}", inServices)
}

// podsYAML are servicePods. Those that are to terminate and serve do so for ten minutes, or
// until endLeaving.
func podsYAML() string {
	var yaml strings.Builder
	for _, p := range servicePods {
		name, node, app, port := p[0], p[1], p[2], p[3]
		extra, label := "", ""
		switch {
		case app == "unready":
			extra = "    readinessProbe: {tcpSocket: {port: 9}}\n"
		case name == "goes" || name == "leaving":
			extra = "    lifecycle: {preStop: {exec: {command: [/bin/podapp, ask, '2', 600s, tcp, '127.0.0.1:8080']}}}\n"
		case app == "plain":
			label = ", culvert.dev/mesh: disabled"
		}
		fmt.Fprintf(&yaml, `---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[3]s%[5]s}}
spec:
  hostname: %[1]s
  subdomain: headless
  nodeName: %[2]s
  terminationGracePeriodSeconds: 600
  containers:
  - name: app
    image: localhost/podapp:1
    ports: [{name: http, containerPort: %[4]s}]
    env: [{name: NODE_NAME, value: %[2]s}]
%[6]s`, name, node, app, port, label, extra)
	}
	return yaml.String()
}

// endLeaving kills what terminates: the kubelet does not give up on a preStop hook for a
// shorter grace period.
func (s *services) endLeaving() {
	s.t.Helper()
	s.enter("node1", "sh", "-c",
		"for p in $(pgrep --exact podapp); do case $(nsenter --uts --target=$p hostname) in goes|leaving) kill -KILL $p;; esac; done; true")
}

func (s *services) apply(yaml string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.mustKubectl("apply", "--filename="+file, inServices)
}

// learn reads the addresses of each object of a kind: the first is known by its name, the
// second, of IPv6, by NAME/6.
func (s *services) learn(kind, path string, flags ...string) {
	s.t.Helper()
	out := s.mustKubectl(append([]string{"get", kind, "--output=jsonpath={range .items[*]}{.metadata.name} " + path + `{"\n"}{end}`}, flags...)...)
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) > 1 && words[1] != "None" {
			s.ips[words[0]] = words[1]
		}
		if len(words) > 2 {
			s.ips[words[0]+"/6"] = words[2]
		}
	}
}

// address puts the address of a node or Service in the place of its name. A Service that
// has none is asked by its name.
func (s *services) address(to string) string {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		s.t.Fatal(err)
	}
	return net.JoinHostPort(cmp.Or(s.ips[host], host), port)
}

// askBoth asks from the pod outside of the mesh and from the one in it of a node.
func (s *services) askBoth(node string, times int, pause time.Duration, network, address string) (plain, meshed string) {
	var both sync.WaitGroup
	both.Go(func() { plain = s.ask("plain"+node, times, pause, network, address) })
	both.Go(func() { meshed = s.ask("meshed"+node, times, pause, network, address) })
	both.Wait()
	return plain, meshed
}

// ask makes connections from a pod, one every pause, and returns the pods that answered,
// or how there was no answer.
func (s *services) ask(pod string, times int, pause time.Duration, network, address string) string {
	out, err := s.kubectl("exec", pod, inServices, "--", "/bin/podapp", "ask", fmt.Sprint(times), pause.String(), network, address)
	if err != nil {
		return err.Error()
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(out) {
		seen[who(line)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}

// who is the pod that answered, with its port if that is the other one, or else the first
// word of the answer.
func who(answer string) string {
	words := strings.Fields(answer)
	switch {
	case len(words) == 0:
		return "nothing"
	case !strings.HasPrefix(words[0], "node") || len(words) == 1:
		return words[0]
	case words[len(words)-1] == ":8083":
		return words[1] + ":8083"
	}
	return words[1]
}
