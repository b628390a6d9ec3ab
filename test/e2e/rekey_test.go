// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// T-ROOT, for two cores (see scaleOf): three nodes, ten identities, 250 streams that stay open and
// some hundred new connections a second, while the root is replaced by one of another key and the
// CA is killed in each state in which it is seen. A node that is cut off from the CA is waited
// for, and named. Nobody notices. identity/rekey/rekeytest kills the CA at every write. N-1,
// A000-17, A002-16.
func TestARootIsRekeyedUnderLoadWhileTheCAIsKilled(t *testing.T) {
	t.Parallel()
	scale := scaleOf(t)
	s := tellAlone(t, lab.Options{TTL: scale.ttl, Nodes: scale.nodes}, "mesh")
	dir := filepath.Dir(s.Identity.Root)
	load := s.rekeyLoad(scale)
	t.Logf("%d nodes, %d identities, %d streams", len(s.Nodes), 2*len(load.pairs), scale.streams)
	former := s.authorityOf(dir)
	began := time.Now()
	mend, err := s.two.CutFromCA(s.Identity)
	s.must(err)
	s.Cleanup(func() { mend() })
	if text, err := s.culvert(s.one, "ca", "rotate-root", "--ca-dir", dir); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	s.waitsFor(dir, s.two)
	t.Logf("%v: it waits for %s, which is cut off", time.Since(began).Round(time.Millisecond), s.two.Name)
	s.must(mend())
	var passed []rekey.State
	for range every(t, 20*time.Millisecond, scale.limit) {
		state := s.planOf(dir).State
		if n := len(passed); n > 0 && passed[n-1] == state {
			continue
		}
		passed = append(passed, state)
		t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), state)
		if state == rekey.Stable {
			break
		}
		s.must(s.Identity.Kill())
		s.must(s.Identity.Start(s.ctx))
	}
	if passed[len(passed)-1] != rekey.Stable || !slices.Contains(passed, rekey.Drain) {
		t.Fatalf("it was seen in %v", passed)
	}
	next := s.authorityOf(dir)
	if next == former || len(s.filesOf(dir).Roots()) != 1 {
		t.Errorf("the root is %s, after %s", next, former)
	}
	for _, n := range s.Nodes {
		if f := s.following(n); f.Roots != 1 || f.Heard != 0 {
			t.Errorf("%s: %+v", n.Name, f)
		}
	}
	load.wantNoHarm()
}

// The mesh moves to keys of ML-DSA-65 while it runs: one node after the other, and the root by
// a re-key. Nodes with certificates of both kinds speak meanwhile.
func TestAMeshMovesToPostQuantumKeysWhileItRuns(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 25 * time.Second}, "mesh")
	dir := filepath.Dir(s.Identity.Root)
	load := s.rekeyLoad(rekeyScale{identities: 4, streams: 10, rate: 50})
	here, there := load.pairs[0].from, load.pairs[1].from
	if text, err := s.culvert(s.one, "ca", "rotate-root", "--ca-dir", dir, "--key-kind", "mldsa65", "--wait"); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if roots := s.filesOf(dir).Roots(); len(roots) != 1 || roots[0].PublicKeyAlgorithm != x509.MLDSA {
		t.Fatalf("%d roots, the first with a key of %v", len(roots), roots[0].PublicKeyAlgorithm)
	}
	for n, pod := range map[*lab.Node]*lab.Pod{s.one: here, s.two: there} {
		leaf := s.leaf(n, pod)
		if leaf == nil || leaf.PublicKeyAlgorithm != x509.ECDSA || leaf.SignatureAlgorithm != x509.MLDSA65 {
			t.Errorf("%s: %+v", n.Name, leaf)
		}
	}
	load.wantNoHarm()

	// A node restarts: what was open on it ends, and new connections are carried.
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: append(s.flags, "-key-kind", "mldsa65")}))
	s.eventually("the first node has keys of ML-DSA-65", func() bool {
		leaf := s.leaf(s.one, here)
		return leaf != nil && leaf.PublicKeyAlgorithm == x509.MLDSA
	})
	if leaf := s.leaf(s.two, there); leaf == nil || leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("the second node has %+v", leaf)
	}
	s.overBoth(func(s *story, network string) {
		for _, p := range load.pairs {
			s.reached(p.from.Place, network, p.to, 8080)
		}
	})
}

// leaf is the certificate that a node has for a pod, or nil.
func (s *story) leaf(n *lab.Node, pod *lab.Pod) *x509.Certificate {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var held []struct {
		Identity, State string
		CertChain       []struct{ PEM []byte }
	}
	s.must(json.Unmarshal(dump.Text["certificates"], &held))
	for _, c := range held {
		if c.Identity != pod.SPIFFEID("cluster.local") || c.State != "Available" || len(c.CertChain) == 0 {
			continue
		}
		block, _ := pem.Decode(c.CertChain[0].PEM)
		leaf, err := x509.ParseCertificate(block.Bytes)
		s.must(err)
		return leaf
	}
	return nil
}

func (s *story) filesOf(dir string) ca.Files {
	s.Helper()
	files, err := ca.Directory{Path: dir}.Read(s.ctx)
	s.must(err)
	return files
}

func (s *story) planOf(dir string) rekey.Plan {
	s.Helper()
	plan, err := rekey.Of(s.filesOf(dir))
	s.must(err)
	return plan
}

// authorityOf is the SHA-256 of the root that signs.
func (s *story) authorityOf(dir string) string {
	s.Helper()
	anchors, err := ca.Anchors(s.filesOf(dir))
	s.must(err)
	return ca.Fingerprint(anchors[0])
}

// waitsFor waits until the CA says that the new root is not used yet since a node has not said that
// it knows it.
func (s *story) waitsFor(dir string, n *lab.Node) {
	s.Helper()
	named := "has not said that it goes by the roots of now"
	s.eventually("the CA names the node that is cut off", func() bool {
		_, text, err := s.Identity.AdminGet(s.ctx, "/config_dump")
		var dump struct{ Rekey rekey.Status }
		return err == nil && json.Unmarshal([]byte(text), &dump) == nil &&
			slices.ContainsFunc(dump.Rekey.Waits, func(w rekey.Wait) bool { return w.Name == n.Name && strings.Contains(w.Why, named) })
	})
	if state := s.planOf(dir).State; state != rekey.Distribute {
		s.Errorf("the re-key is in %s, while a node does not know the new root", state)
	}
}

// load is connections between pairs of pods on all nodes.
type load struct {
	*story
	pairs  []*pair
	began  time.Time     // with all streams open
	pause  time.Duration // of each pair, between some new connections and the next
	stop   context.CancelFunc
	dials  sync.WaitGroup
	opened atomic.Int64
	failed atomic.Int64
	why    sync.Map // errno -> true
}

type pair struct {
	from, to *lab.Pod
	client   *agent.Client
	many     agent.Many
	held     agent.Crowd
	failed   atomic.Int64 // of the new connections
}

// rekeyLoad begins: each of the pairs holds streams open, and makes new connections all the time.
func (s *story) rekeyLoad(scale rekeyScale) *load {
	s.Helper()
	pairs := scale.identities / 2
	held := scale.streams / pairs
	l := &load{story: s, pause: time.Second * time.Duration(dialled*pairs) / time.Duration(scale.rate)}
	for i := range pairs {
		client := s.pod(s.Nodes[i%len(s.Nodes)], fmt.Sprintf("client-%d", i), nil)
		server := s.pod(s.Nodes[(i+1)%len(s.Nodes)], fmt.Sprintf("server-%d", i), nil)
		s.serve(server.Place, agent.Echo, 8080)
		a, err := client.Agent()
		s.must(err)
		p := &pair{from: client, to: server, client: a, many: agent.Many{Network: "tcp4", To: server.At("tcp4", 8080), Count: held, Timeout: 10 * time.Second}}
		p.held, err = a.Many(s.ctx, p.many)
		s.must(err)
		if p.held.OK != held {
			s.Fatalf("%d of %d streams: %v", p.held.OK, held, p.held.Failed)
		}
		l.pairs = append(l.pairs, p)
	}
	l.began = time.Now()
	ctx, stop := context.WithCancel(s.ctx)
	l.stop = stop
	s.Cleanup(func() { stop(); l.dials.Wait() })
	for _, p := range l.pairs {
		l.dials.Go(func() { l.dial(ctx, p) })
	}
	return l
}

// dialled is how many new connections a pair makes together.
const dialled = 5

// dial makes some new connections, again and again.
func (l *load) dial(ctx context.Context, p *pair) {
	some := p.many
	some.Count, some.Parallel = dialled, dialled
	for range every(l.T, l.pause, 15*time.Minute) {
		if ctx.Err() != nil {
			return
		}
		crowd, err := p.client.Many(l.ctx, some)
		if err == nil {
			err = p.client.ManyClose(l.ctx, crowd.ID)
		}
		if err != nil {
			p.failed.Add(1)
			l.failed.Add(1)
			l.why.Store(err.Error(), true)
			continue
		}
		l.opened.Add(int64(crowd.OK))
		p.failed.Add(int64(some.Count - crowd.OK))
		l.failed.Add(int64(some.Count - crowd.OK))
		for errno := range crowd.Failed {
			l.why.Store(errno, true)
		}
	}
}

// wantNoHarm ends the load: nothing has failed, and what was open still carries bytes.
func (l *load) wantNoHarm() {
	l.Helper()
	l.stop()
	l.dials.Wait()
	lasted := time.Since(l.began)
	held := 0
	for _, p := range l.pairs {
		again, err := p.client.ManyCheck(l.ctx, p.held.ID)
		l.must(err)
		held += again.OK
		if again.OK != p.held.OK {
			l.Errorf("%d of %d streams live on: %v", again.OK, p.held.OK, again.Failed)
		}
	}
	var why []string
	l.why.Range(func(errno, _ any) bool { why = append(why, fmt.Sprint(errno)); return true })
	l.Logf("%d streams held, %d new connections in %v (%.0f/s), %d failed %v",
		held, l.opened.Load(), lasted.Round(time.Second), float64(l.opened.Load())/lasted.Seconds(), l.failed.Load(), why)
	if l.failed.Load() > 0 || l.opened.Load() == 0 {
		l.Errorf("%d connections failed: %v", l.failed.Load(), why)
	}
	for _, n := range l.Nodes {
		records, err := n.Records()
		l.must(err)
		bad := slices.DeleteFunc(records, func(r lab.Record) bool { return r.Get("result") == "ok" })
		if len(bad) > 0 {
			l.Errorf("%s: %d access records of a connection that did not go well, as %v", n.Name, len(bad), bad[0])
		}
	}
}
