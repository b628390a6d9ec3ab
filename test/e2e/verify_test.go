// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// proved is what culvert verify says, as far as it is judged.
type proved struct {
	Verdict, Path string
	Steps         []struct{ Step, State, Says string }
	code          int
	text          string
}

func (p proved) at(step string) (state, says string) {
	for _, s := range p.Steps {
		if s.Step == step {
			return s.State, s.Says
		}
	}
	return "", ""
}

// verify asks by the sockets of nodes.
func (s *story) verify(nodes []*lab.Node, from, to string) (p proved) {
	s.Helper()
	program, err := filepath.Abs("../../bin/culvert")
	s.must(err)
	var sockets []string
	for _, n := range nodes {
		sockets = append(sockets, filepath.Join(n.State, "admin.sock"))
	}
	cmd := exec.CommandContext(s.ctx, program, "verify", "-o", "json", "--ztunnel-socket", strings.Join(sockets, ","), from, to)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		s.Fatal(err)
	}
	p.code, p.text = cmd.ProcessState.ExitCode(), string(out)+stderr.String()
	if len(out) > 0 {
		s.must(json.Unmarshal(out, &p))
	}
	return p
}

// isVerified tries until all is proved, by that path: certificates come in their time.
func (s *story) isVerified(path, from, to string) {
	s.Helper()
	var p proved
	defer func() {
		if s.Failed() {
			s.Log(p.text)
		}
	}()
	s.eventually(from+" to "+to+" is verified", func() bool {
		p = s.verify([]*lab.Node{s.one, s.two}, from, to)
		return p.code == 0
	})
	if p.Verdict != "verified" || p.Path != path || len(p.Steps) != 6 {
		s.Errorf("%s to %s: want path %s", from, to, path)
	}
}

// What is said in a tunnel is on no wire in plaintext, and what is not said in one is: the
// same watch sees both.
func TestVerifyProvesThatNothingWasOnTheWireInPlaintext(t *testing.T) {
	t.Parallel()
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	near := s.pod(s.one, "near", nil)
	plain := s.pod(s.two, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	for _, p := range []*lab.Pod{server, near, plain} {
		s.serve(p.Place, agent.Echo, 8080)
	}
	for _, p := range []*lab.Pod{client, server, near} {
		s.must(p.AwaitEnrolled(s.ctx))
	}
	both, from := []*lab.Node{s.one, s.two}, s.namespace+"/client"

	s.isVerified("tunnel", from, s.namespace+"/server:8080")
	s.isVerified("tunnel", from, netip.AddrPortFrom(server.IP6, 8080).String())
	local := "local"
	if slices.Contains(s.flags, "-same-node=tunnel") {
		local = "tunnel"
	}
	s.isVerified(local, from, s.namespace+"/near:8080")

	// Plaintext that policy allows, either way, is named with its device and packet.
	for _, way := range [][2]string{{from, s.namespace + "/plain:8080"}, {s.namespace + "/plain", s.namespace + "/near:8080"}} {
		p := s.verify(both, way[0], way[1])
		if p.code != 1 || p.Verdict != "not verified" {
			t.Errorf("%v: %s", way, p.text)
		}
		for _, wire := range []string{"source-wire", "destination-wire"} {
			if state, says := p.at(wire); state != "fault" || !strings.Contains(says, "in plaintext on ") || !strings.Contains(says, ": a packet of ") {
				t.Errorf("%v: %s is %s: %s", way, wire, state, says)
			}
		}
	}
	// What a policy refuses is not verified.
	s.apply("AuthorizationPolicy", s.namespace, "shut",
		"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: shut, namespace: "+s.namespace+"}, spec: {action: DENY, rules: [{to: [{operation: {ports: [\"9090\"]}}]}]}}\n")
	s.serve(server.Place, agent.Echo, 9090)
	if p := s.verify(both, from, s.namespace+"/server:9090"); p.code != 1 {
		t.Errorf("what a policy refuses: %s", p.text)
	} else if state, says := p.at("connection"); state != "fault" || !strings.Contains(says, "did not reach") && !strings.Contains(says, "was refused") {
		t.Errorf("what a policy refuses: %s: %s", state, says)
	}
	// A ztunnel that has opened packet sockets may open no more, but by raising that right.
	for _, n := range both {
		s.hasRawPutBy(n.Ztunnel.PID())
	}
	// A node that is not heard proves nothing.
	p := s.verify([]*lab.Node{s.one}, from, s.namespace+"/server:8080")
	if state, _ := p.at("destination-wire"); p.code != 2 || p.Verdict != "not verified" || state != "unknown" {
		t.Errorf("with one node alone: %s", p.text)
	}
}

// hasRawPutBy wants CAP_NET_RAW to be permitted to all threads of a process, and in force for
// none.
func (s *story) hasRawPutBy(pid int) {
	s.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	s.must(err)
	if len(threads) == 0 {
		s.Fatalf("process %d has no threads", pid)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		s.must(err)
		for set, want := range map[string]bool{"CapPrm": true, "CapEff": false} {
			_, line, _ := strings.Cut(string(text), "\n"+set+":")
			line, _, _ = strings.Cut(line, "\n")
			have, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
			s.must(err)
			if has := have&(1<<unix.CAP_NET_RAW) != 0; has != want {
				s.Errorf("%s: CAP_NET_RAW in %s: %v, want %v", path, set, has, want)
			}
		}
	}
}
