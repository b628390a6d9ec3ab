// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// atOnce is how long it may take until a pod of a dead ztunnel is refused.
const atOnce = 10 * time.Millisecond

func TestPodsOfAKilledZtunnelAreRefusedAndComeBackWithTheNext(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.probed(), s.pod(s.two, "there", nil)
	s.serve(there.Place, agent.Echo, 8080)
	pids := s.pids(here.Pod, there)
	wire, err := s.Wire.Capture(s.ctx)
	s.must(err)

	var stopped []func() int
	for _, network := range []string{"tcp4", "tcp6"} {
		stopped = append(stopped, s.load(here.Pod, network, there.At(network, 8080)), s.load(there, network, here.At(network, 8082)))
	}
	s.must(s.one.Ztunnel.Kill())
	s.overBoth(func(s *story, network string) {
		s.eventually("the load is refused", func() bool { return s.connectError(here.Place, there.At(network, 8080)) != nil })
	})
	for _, stop := range stopped {
		if stop() == 0 {
			t.Error("there was no load when ztunnel was killed")
		}
	}
	s.overBoth(func(s *story, network string) {
		s.refusedAtOnce(here.Place, there.At(network, 8080))
		s.refusedAtOnce(s.Outside.Place, here.At(network, 8082))
		s.refusedAtOnce(s.one.Host, here.At(network, 15008))
		s.probe(here, network)
	})

	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(here.AwaitEnrolled(s.ctx))
	s.overBoth(func(s *story, network string) {
		s.reached(here.Place, network, there, 8080)
		s.reached(there.Place, network, here.Pod, 8082)
	})
	if now := s.pids(here.Pod, there); !slices.Equal(now, pids) {
		t.Errorf("processes of the pods were %v, are %v", pids, now)
	}
	s.must(wire.Stop())
	s.nothingPlain(wire, here.Pod, there)
}

const secret = "what only the two pods may read"

// load has from connect to an echo server again and again. stop ends that, and
// returns how many of the connections were served.
func (s *story) load(from *lab.Pod, network string, to netip.AddrPort) (stop func() int) {
	ctx, cancel := context.WithCancel(s.ctx)
	var served atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if from.Ping(ctx, network, to, secret) == nil {
				served.Add(1)
			}
		}
	})
	s.eventually("the first connection under load", func() bool { return served.Load() > 0 })
	return func() int {
		cancel()
		wg.Wait()
		return int(served.Load())
	}
}

// connectError is what connect() says, nil if it succeeds.
func (s *story) connectError(from *lab.Place, to netip.AddrPort) error {
	s.Helper()
	conn, err := from.Dial(s.ctx, "tcp", to)
	if err == nil {
		s.must(conn.Close())
	}
	return err
}

// refusedAtOnce asserts that connect() says ECONNREFUSED, and how soon. Half of
// them may be late: this process does not have the machine to itself.
func (s *story) refusedAtOnce(from *lab.Place, to netip.AddrPort) {
	s.Helper()
	var took []time.Duration
	for range 20 {
		var failed *agent.Error
		err := s.connectError(from, to)
		if !errors.As(err, &failed) || !errors.Is(err, syscall.ECONNREFUSED) {
			s.Errorf("%s to %v: %v, want ECONNREFUSED", from.Cgroup, to, err)
			return
		}
		took = append(took, failed.Elapsed)
	}
	slices.Sort(took)
	s.Logf("to %v: refused in %v, at most %v", to, took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > atOnce {
		s.Errorf("%s to %v: refused after %v", from.Cgroup, to, took)
	}
}

// nothingPlain asserts that what the pods said to each other was not on the
// wire but by tunnel.
func (s *story) nothingPlain(wire *capture.Capture, pods ...*lab.Pod) {
	s.Helper()
	if found, err := wire.Contains([]byte(secret)); found || err != nil {
		s.Errorf("payload on the wire: %v, %v", found, err)
	}
	isPod := func(addr netip.Addr) bool {
		return slices.ContainsFunc(pods, func(p *lab.Pod) bool { return p.IP4 == addr || p.IP6 == addr })
	}
	flows, err := wire.Flows(func(f capture.Flow) bool { return isPod(f.Client.Addr()) && isPod(f.Server.Addr()) })
	s.must(err)
	tunnels := 0
	for _, f := range flows {
		if f.Server.Port() != 15008 {
			s.Errorf("between the pods was on the wire: %v", f)
		} else if f.TLS().Only {
			tunnels++
		}
	}
	if tunnels == 0 {
		s.Errorf("no tunnel was on the wire: %v", flows)
	}
}

// pids are the processes of pods' agents.
func (s *story) pids(pods ...*lab.Pod) (pids []int) {
	s.Helper()
	for _, p := range pods {
		a, err := p.Agent()
		s.must(err)
		pid, err := a.PID(s.ctx)
		s.must(err)
		pids = append(pids, pid)
	}
	return pids
}

func TestAStoppedZtunnelLetsOpenConnectionsEnd(t *testing.T) {
	const drain = 8 * time.Second
	s := tellAlone(t, lab.Options{ZtunnelArgs: []string{"-drain", drain.String()}}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(here.Place, agent.Echo, 8080)
	s.serve(there.Place, agent.Echo, 8080)
	open := func() (out, in *agent.Conn, ended <-chan error) {
		out, err := here.Dial(s.ctx, "tcp4", there.At("tcp4", 8080))
		s.must(err)
		in, err = there.Dial(s.ctx, "tcp6", here.At("tcp6", 8080))
		s.must(err)
		s.must(errors.Join(out.Ping(s.ctx, "before"), in.Ping(s.ctx, "before")))
		stopped := make(chan error, 1)
		go func() { stopped <- s.one.Ztunnel.Stop(s.ctx) }()
		s.eventually("new connections are refused", func() bool {
			return errors.Is(s.connectError(here.Place, there.At("tcp4", 8080)), syscall.ECONNREFUSED) &&
				errors.Is(s.connectError(s.Outside.Place, here.At("tcp6", 8080)), syscall.ECONNREFUSED)
		})
		s.must(errors.Join(out.Ping(s.ctx, "while it drains"), in.Ping(s.ctx, "while it drains")))
		return out, in, stopped
	}

	start := time.Now()
	out, in, ended := open()
	s.must(errors.Join(out.Close(), in.Close()))
	s.must(<-ended)
	if took := time.Since(start); took > drain {
		t.Errorf("it ended after %v, though nothing was open", took)
	}
	for _, direction := range []string{"outbound", "inbound"} {
		s.record(s.one, "direction", direction, "result", "ok", "path", "tunnel")
	}

	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(here.AwaitEnrolled(s.ctx))
	start = time.Now()
	out, in, ended = open()
	s.must(<-ended)
	if took := time.Since(start); took < drain || took > 2*drain {
		t.Errorf("it ended after %v, with connections open and %v to drain", took, drain)
	}
	for _, conn := range []*agent.Conn{out, in} {
		if b, err := conn.Receive(s.ctx, 1); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v -> %v: received %q, %v; want a reset", conn.Local(), conn.Peer(), b, err)
		}
	}
	for _, direction := range []string{"outbound", "inbound"} {
		s.record(s.one, "direction", direction, "result", "drained", "path", "tunnel")
	}
}

// Whatever is being set up or torn down when a ztunnel goes, and on whichever
// node, its pods are refused until the next one has them.
// A003-4: STRICT holds without a ztunnel.
func TestNothingIsPlainWhicheverZtunnelGoesWhen(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 4
	}
	s := tellAlone(t, lab.Options{ZtunnelArgs: []string{"-drain", "100ms"}}, "mesh")
	pods := []*lab.Pod{s.pod(s.one, "a", nil), s.pod(s.one, "b", nil), s.pod(s.two, "c", nil)}
	for _, p := range pods {
		s.serve(p.Place, agent.Echo, 8080)
	}
	wire, err := s.Wire.Capture(s.ctx)
	s.must(err)
	var stopped []func() int
	for i, from := range pods {
		to := pods[(i+1)%len(pods)]
		stopped = append(stopped, s.load(from, "tcp4", to.At("tcp4", 8080)), s.load(from, "tcp6", to.At("tcp6", 8080)))
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		n := s.Nodes[dice.IntN(len(s.Nodes))]
		var meanwhile sync.WaitGroup
		meanwhile.Go(func() { // a pod may come and go, or fail to
			p, err := n.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: fmt.Sprintf("passer-%d", round), Hasty: true})
			if err == nil {
				err = p.Delete(s.ctx)
			}
			if err != nil && lab.CNICode(err) != 11 {
				t.Errorf("a pod while ztunnel goes: %v", err)
			}
		})
		if dice.IntN(3) == 0 {
			s.must(n.Ztunnel.Stop(s.ctx))
		} else {
			s.must(n.Ztunnel.Kill())
		}
		s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
		meanwhile.Wait()
	}
	for _, p := range pods {
		s.must(p.AwaitEnrolled(s.ctx))
	}
	for _, stop := range stopped {
		stop()
	}
	for i, from := range pods {
		s.reached(from.Place, "tcp4", pods[(i+1)%len(pods)], 8080)
		s.reached(from.Place, "tcp6", pods[(i+1)%len(pods)], 8080)
	}
	s.must(wire.Stop())
	s.nothingPlain(wire, pods...)
	for _, n := range s.Nodes {
		living := 0
		for _, p := range pods {
			if p.Node == n {
				living++
			}
		}
		s.eventually("what passed is forgotten", func() bool {
			c := s.census(n)
			return c["sandboxes"] == living && c["sandbox records"] == living && c["entries of pods"] == living && c["entries of pod_ips"] == 2*living
		})
	}
}
