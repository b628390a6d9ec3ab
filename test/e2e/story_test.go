// SPDX-License-Identifier: Apache-2.0

// Package e2e tells stories of two nodes: real processes, real pods, real BPF,
// real TLS. Each story has its refused twin, and asserts what the access
// records of both sides say and what was on the wire.
package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// common is a lab that many stories share, built for the first.
type common struct {
	once sync.Once
	lab  *lab.Lab
	err  error
}

func (c *common) close() error {
	if c.lab == nil {
		return nil
	}
	return c.lab.Close()
}

// shared is the lab of all stories that leave it as they found it. The others
// make their own by newLab.
var shared = new(common)

func TestMain(m *testing.M) {
	if path := os.Getenv(asWorkload); path != "" {
		beWorkload(path)
		return
	}
	if err := chooseMode(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "close the lab:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// story is one test's own corner of a lab: a namespace of its own.
type story struct {
	*testing.T
	*lab.Lab
	ctx       context.Context
	one, two  *lab.Node
	namespace string
	flags     []string // of every ztunnel, beside the lab's own
}

var count atomic.Int32

// tell begins a story in the shared lab, in a namespace with these labels
// (key, value, ...). "mesh" stands for culvert.dev/mesh: enabled.
func tell(t *testing.T, labels ...string) *story {
	t.Helper()
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	shared.once.Do(func() { shared.lab, shared.err = lab.New(context.Background(), told.apply(lab.Options{})) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	s := in(t, shared.lab, labels...)
	s.flags = told.args
	return s
}

// tellAlone begins a story in a lab of its own, for what would disturb others.
func tellAlone(t *testing.T, opts lab.Options, labels ...string) *story {
	t.Helper()
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	opts = told.apply(opts)
	l, err := lab.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	s := in(t, l, labels...)
	s.flags = opts.ZtunnelArgs
	return s
}

func in(t *testing.T, l *lab.Lab, labels ...string) *story {
	t.Helper()
	s := &story{T: t, Lab: l, ctx: t.Context(), one: l.Nodes[0], two: l.Nodes[len(l.Nodes)-1]}
	s.namespace = fmt.Sprintf("story-%d", count.Add(1))
	set := map[string]string{}
	for i := 0; i < len(labels); i++ {
		if labels[i] == "mesh" {
			set["culvert.dev/mesh"] = "enabled"
			continue
		}
		set[labels[i]] = labels[i+1]
		i++
	}
	s.must(l.Namespace(s.namespace, set))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs())
		}
		for _, n := range l.Nodes {
			for _, p := range n.Pods() {
				if p.Namespace == s.namespace {
					s.remove(p)
				}
			}
		}
	})
	return s
}

// remove deletes a pod when its story has ended: each has its own time, however many there are.
func (s *story) remove(p *lab.Pod) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Delete(ctx); err != nil {
		s.Errorf("delete pod %v: %v", p, err)
	}
}

func (s *story) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pod starts a pod of the story's namespace; edit may be nil.
func (s *story) pod(n *lab.Node, name string, edit func(*lab.PodSpec)) *lab.Pod {
	s.Helper()
	spec := lab.PodSpec{Namespace: s.namespace, Name: name, ServiceAccount: name, Labels: map[string]string{"app": name}}
	if edit != nil {
		edit(&spec)
	}
	p, err := n.Pod(s.ctx, spec)
	s.must(err)
	return p
}

// serve starts a server in a pod or another place.
func (s *story) serve(at *lab.Place, kind agent.Kind, port uint16) *agent.Listener {
	s.Helper()
	ln, err := at.Serve(s.ctx, kind, port)
	s.must(err)
	s.Cleanup(func() { ln.Close() })
	return ln
}

// apply applies YAML, settles, and takes it back when the story ends.
func (s *story) apply(kind, namespace, name, yaml string) {
	s.Helper()
	s.must(s.Apply(yaml))
	s.Cleanup(func() {
		s.Delete(kind, namespace, name)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Settle(ctx)
	})
	s.must(s.Settle(s.ctx))
}

// peerAuthentication is a policy without selector.
func peerAuthentication(namespace, mode string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: %s
spec:
  mtls:
    mode: %s
`, namespace, mode)
}

// reached asserts that from gets an echo from to.
func (s *story) reached(from *lab.Place, network string, to *lab.Pod, port uint16) {
	s.Helper()
	if err := from.Ping(s.ctx, network, to.At(network, port), "ping"); err != nil {
		s.Errorf("%s to %v over %s: %v", from.Cgroup, to, network, err)
	}
}

// refused asserts that from does not, and how long it took to know.
func (s *story) refused(from *lab.Place, network string, to *lab.Pod, port uint16) {
	s.Helper()
	start := time.Now()
	if err := from.Ping(s.ctx, network, to.At(network, port), "ping"); err == nil {
		s.Errorf("%s to %v over %s: was let through", from.Cgroup, to, network)
	}
	if took := time.Since(start); took > 9*time.Second {
		s.Errorf("%s to %v over %s: refused after %v", from.Cgroup, to, network, took)
	}
}

// field is a field of a record. "target" is the app's address, which is the
// destination's, but in a tunnel.
func field(r lab.Record, name string) string {
	if name != "target" {
		return r.Get(name)
	}
	if to := r.Get("dst.hbone_addr"); to != "" {
		return to
	}
	return r.Get("dst.addr")
}

// way is the path of the record between two pods: what stays on a node goes
// beside its tunnel.
func (s *story) way(from, to *lab.Pod) string {
	if from.Node != to.Node {
		return "tunnel"
	}
	for _, flag := range slices.Backward(s.flags) {
		if path, ok := strings.CutPrefix(flag, "-same-node="); ok {
			return path
		}
	}
	return "local"
}

// record awaits the access record with these fields (name, value, ...).
func (s *story) record(n *lab.Node, fields ...string) lab.Record {
	s.Helper()
	found, err := n.Access(s.ctx, func(r lab.Record) bool {
		for i := 0; i < len(fields); i += 2 {
			if !strings.HasPrefix(field(r, fields[i]), fields[i+1]) {
				return false
			}
		}
		return true
	})
	if err != nil {
		s.Errorf("record with %v: %v", fields, err)
	}
	return found
}

// eventually waits until done, for at most a minute.
func (s *story) eventually(what string, done func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("waited in vain: %s", what)
		}
	}
}

// overBoth runs f as a subtest for each IP version.
func (s *story) overBoth(f func(s *story, network string)) {
	for _, network := range []string{"tcp4", "tcp6"} {
		s.Run(network, func(t *testing.T) {
			sub := *s
			sub.T, sub.ctx = t, t.Context()
			f(&sub, network)
		})
	}
}
