// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// answer is what culvert why says, as far as it is judged.
type answer struct {
	Verdict string
	EndsAt  string
	Steps   []struct{ Step, State, Says, Change string }
	code    int
	text    string
}

// at is the step where the connection ends.
func (a answer) at(step string) (says, change string) {
	for _, s := range a.Steps {
		if s.Step == step {
			return s.Says, s.Change
		}
	}
	return "", ""
}

// why asks by the sockets of both nodes.
func (s *story) why(args ...string) (a answer) {
	s.Helper()
	program, err := filepath.Abs("../../bin/culvert")
	s.must(err)
	sockets := filepath.Join(s.one.State, "admin.sock") + "," + filepath.Join(s.two.State, "admin.sock")
	cmd := exec.CommandContext(s.ctx, program, append([]string{"why", "-o", "json", "--ztunnel-socket", sockets}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		s.Fatal(err)
	}
	a.code, a.text = cmd.ProcessState.ExitCode(), string(out)+stderr.String()
	if len(out) > 0 {
		s.must(json.Unmarshal(out, &a))
	}
	return a
}

// planted is a fault, and what culvert why must say of it.
type planted struct {
	fault string
	// plant makes it, and returns what is asked, and what takes it back; nil: it stays.
	plant        func(s *story) (args []string, mend func())
	step, change string
	lasts        bool // it is not taken back
}

// Twelve faults, of which each has one command name the step where the connection ends,
// and the object to change. In between all is well.
func TestWhyNamesWhereAConnectionEndsAndWhatToChange(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 40 * time.Second}, "mesh")
	client := s.pod(s.one, "client", nil)
	server := s.pod(s.two, "server", func(p *lab.PodSpec) { p.Ports = append(p.Ports, lab.ContainerPort("main", 8080)) })
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(server.AwaitEnrolled(s.ctx))
	_, err := s.Service(lab.ServiceSpec{Namespace: s.namespace, Name: "web", Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{lab.ServicePort("http", 80, "main")}})
	s.must(err)
	s.must(s.Settle(s.ctx))
	from, to := s.namespace+"/client", s.namespace+"/server:8080"
	s.isWell(from, to)
	s.isWell(from, s.namespace+"/web:http")
	s.isWell(client.IP6.String(), netip.AddrPortFrom(server.IP6, 8080).String())
	near := s.pod(s.one, "near", nil)
	s.serve(near.Place, agent.Echo, 8080)
	s.isWell(from, s.namespace+"/near:8080")
	s.reached(client.Place, "tcp4", server, 8080)

	for _, f := range s.faults(client, server) {
		s.Run(f.fault, func(t *testing.T) {
			sub := *s
			sub.T, sub.ctx = t, t.Context()
			args, mend := f.plant(&sub)
			if mend != nil {
				defer mend()
			}
			var a answer
			defer func() {
				if t.Failed() {
					t.Log(a.text)
				}
			}()
			// To know that nobody answers takes 12 s, and more than one attempt while
			// routes of before are remembered.
			for range every(t, 100*time.Millisecond, 5*time.Minute) {
				a = sub.why(args...)
				says, change := a.at(f.step)
				if a.code == 1 && a.Verdict == "refused" && a.EndsAt == f.step && strings.Contains(change, f.change) {
					t.Logf("%s: %s; change: %s", f.step, says, change)
					return
				}
			}
			t.Errorf("it is not named: want %s, change %s", f.step, f.change)
		})
		if f.lasts {
			continue
		}
		s.isWell(from, to)
	}
}

// isWell waits until nothing is found.
func (s *story) isWell(from, to string) {
	s.Helper()
	var a answer
	for range every(s.T, 100*time.Millisecond, 5*time.Minute) {
		if a = s.why(from, to); a.Verdict == "carried" && a.code == 0 {
			return
		}
	}
	s.Fatalf("%s to %s is not well: %s", from, to, a.text)
}

func (s *story) faults(client, server *lab.Pod) []planted {
	ns, from := s.namespace, s.namespace+"/client"
	to := ns + "/server:8080"
	ca := "culvert-identity at " + s.Identity.Addr.String()
	nobody := s.two.PodCIDR4.Addr().As4()
	nobody[3] = 250
	stranger := netip.AddrFrom4(nobody).String()
	return []planted{
		{"the hook is removed", func(s *story) ([]string, func()) {
			return []string{from, to}, keepDetached(filepath.Join(s.one.BPFFS, "v2", "links", "connect4"))
		}, "source-steered", "ztunnel on node1: whoever removes its hooks there", false},
		{"port 15008 is dropped", func(s *story) ([]string, func()) {
			mend, err := s.two.Cut(server, 15008)
			s.must(err)
			return []string{from, to}, func() { s.must(mend()) }
		}, "tunnel", "what drops TCP port 15008 from node1 to node2", false},
		{"another ServiceAccount", func(s *story) ([]string, func()) {
			pod := s.pod(s.two, "mistaken", nil)
			s.serve(pod.Place, agent.Echo, 8080)
			text, err := pod.As("impostor")
			s.must(err)
			s.must(s.one.Believe(text))
			return []string{from, ns + "/mistaken:8080"}, nil
		}, "destination-certificate", "Pod " + ns + "/mistaken: spec.serviceAccountName, as node1 reads it", false},
		{"a policy", func(s *story) ([]string, func()) {
			s.apply("AuthorizationPolicy", ns, "shut", fmt.Sprintf(
				"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: shut, namespace: %s}, spec: {action: DENY, rules: [{to: [{operation: {ports: [\"9\"]}}]}, {to: [{operation: {ports: [\"8080\"]}}]}]}}\n", ns))
			s.refused(client.Place, "tcp4", server, 8080)
			s.eventually("the last refused is explained", func() bool { return s.why("--last-refused", from).EndsAt == "policy" })
			return []string{from, to}, nil
		}, "policy", "AuthorizationPolicy " + ns + "/shut: spec.rules[1]", false},
		{"a NetworkPolicy", func(s *story) ([]string, func()) {
			s.isolate("server", "closed", "ingress: [{ports: [{port: 9}]}]")
			s.must(s.Label(ns, "culvert.dev/network-policy", "enforce"))
			return []string{from, to}, func() { s.must(s.Label(ns, "culvert.dev/network-policy", "")) }
		}, "network-policy", "NetworkPolicy " + ns + "/closed: a rule that admits it", false},
		{"an unknown address", func(s *story) ([]string, func()) { return []string{from, stranger + ":80"}, nil },
			"destination", "the Pod or EndpointSlice that should have " + stranger, false},
		{"no ready endpoint", func(s *story) ([]string, func()) {
			_, err := s.Service(lab.ServiceSpec{Namespace: ns, Name: "empty", Selector: map[string]string{"app": "nobody"}, Ports: []corev1.ServicePort{lab.ServicePort("http", 80, "")}})
			s.must(err)
			s.must(s.Settle(s.ctx))
			return []string{from, ns + "/empty:80"}, nil
		}, "endpoint", "Service " + ns + "/empty: spec.selector, or the readiness of its pods", false},
		{"the app does not listen", func(s *story) ([]string, func()) { return []string{from, ns + "/server:9999"}, nil },
			"app", "Pod " + ns + "/server: its app does not listen on port 9999", false},
		{"ztunnel is gone", func(s *story) ([]string, func()) {
			s.must(s.two.Ztunnel.Kill())
			return []string{from, to}, s.restart
		}, "destination-steered", "ztunnel on node2: start it", false},
		{"a clock is off by an hour", func(s *story) ([]string, func()) {
			program, err := s.Ahead(time.Hour)
			s.must(err)
			s.must(s.two.Ztunnel.Stop(s.ctx))
			s.must(s.two.LaunchZtunnel(s.ctx, lab.ZtunnelOptions{Program: program}))
			return []string{from, to}, s.restart
		}, "destination-certificate", "the clock of node node2: set it", false},
		{"the CA is away", func(s *story) ([]string, func()) {
			s.must(s.Identity.Kill())
			s.pod(s.one, "late", nil)
			return []string{ns + "/late", to}, nil
		}, "source-certificate", ca + ": it does not answer node1", true},
		{"an expired leaf", func(s *story) ([]string, func()) {
			id := client.SPIFFEID("cluster.local")
			for range every(s.T, 100*time.Millisecond, 5*time.Minute) {
				if !s.holds(s.one, id) {
					break
				}
			}
			return []string{from, to}, nil
		}, "source-certificate", ca + ": it does not answer node1", true},
	}
}

// keepDetached detaches a link again and again until it is ended: ztunnel attaches it within
// seconds.
func keepDetached(pin string) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			_ = detach(pin) // it may be detached already, or be replaced now
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(stop); <-done })
}

// restart has node 2 run the lab's own ztunnel again.
func (s *story) restart() {
	s.Helper()
	if s.two.Ztunnel.Running() {
		s.must(s.two.Ztunnel.Stop(s.ctx))
	}
	program, err := filepath.Abs("../../bin/ztunnel")
	s.must(err)
	s.must(s.two.StartZtunnel(s.ctx, lab.ZtunnelOptions{Program: program}))
}
