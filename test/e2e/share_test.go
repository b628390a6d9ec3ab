// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// A pod that wants all descriptors of its node gets four fifths. Its neighbours are
// served, and the next pod is enrolled.
func TestAGreedyPodIsRefusedAndItsNeighboursAreNot(t *testing.T) {
	const room, wanted, modest = 400, 1000, 25
	s := tellAlone(t, lab.Options{}, "mesh")
	greedy, quiet, server := s.pod(s.one, "greedy", nil), s.pod(s.one, "quiet", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(s.Outside.Place, agent.Echo, 8080)
	g, err := greedy.Agent()
	s.must(err)
	q, err := quiet.Agent()
	s.must(err)
	s.hasShortSlices(s.one)
	s.overBoth(func(s *story, network string) {
		outside := netip.AddrPortFrom(s.Outside.Addr(network), 8080)
		for _, to := range []netip.AddrPort{server.At(network, 8080), outside} {
			s.must(greedy.Ping(s.ctx, network, to, "the tunnel stands"))
			s.must(quiet.Ping(s.ctx, network, to, "the tunnel stands"))
			s.eventually("what went before has ended", func() bool {
				return s.counted(s.one, "culvert_budget_used", "resource", "descriptors") < 10
			})
			enough := s.leaveRoom(s.one, room)
			s.eventually("the new limit is followed", func() bool {
				return s.counted(s.one, "culvert_budget_size", "resource", "descriptors") <= room
			})
			many, err := g.Many(s.ctx, agent.Many{Network: network, To: to, Count: wanted})
			s.must(err)
			if refused := many.Failed["ECONNRESET"]; many.OK == 0 || many.OK > room*4/5 || many.OK+refused != wanted {
				s.Errorf("to %v: the greedy pod has %d of %d, failed %v", to, many.OK, wanted, many.Failed)
			}
			few, err := q.Many(s.ctx, agent.Many{Network: network, To: to, Count: modest})
			s.must(err)
			if few.OK != modest {
				s.Errorf("to %v: its neighbour has %d of %d, failed %v", to, few.OK, modest, few.Failed)
			}
			late := s.pod(s.one, "late", nil)
			s.must(late.Ping(s.ctx, network, to, "hello"))
			s.must(late.Delete(s.ctx))
			again, err := g.ManyCheck(s.ctx, many.ID)
			s.must(err)
			if again.OK != many.OK {
				s.Errorf("to %v: %d of the greedy pod's %d open connections live", to, again.OK, many.OK)
			}
			s.must(errors.Join(g.ManyClose(s.ctx, many.ID), q.ManyClose(s.ctx, few.ID)))
			enough()
		}
	})
	records, err := s.one.Records()
	s.must(err)
	for _, r := range records {
		if r.Get("result") == "limit" && r.Get("src.workload") != "greedy" {
			t.Errorf("refused for want of room: %v", r)
		}
	}
	r := s.record(s.one, "direction", "outbound", "result", "limit", "src.workload", "greedy")
	if text := r.Get("error"); text == "" {
		t.Errorf("no reason in %v", r)
	} else {
		s.record(s.one, "error", "pod "+s.namespace+"/greedy has ")
	}
}

// hasShortSlices checks that a node's ztunnel gives way to others on its processors after
// 100 µs, if the kernel lets threads choose that (Linux 6.12).
func (s *story) hasShortSlices(n *lab.Node) {
	s.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", n.Ztunnel.PID()))
	s.must(err)
	for _, task := range tasks {
		thread, err := strconv.Atoi(filepath.Base(task))
		s.must(err)
		attr, err := unix.SchedGetAttr(thread, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		s.must(err)
		if attr.Runtime != 0 && attr.Runtime != 100_000 {
			s.Errorf("thread %d of ztunnel has a slice of %d ns", thread, attr.Runtime)
		}
	}
}
