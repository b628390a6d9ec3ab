// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestOutOfDescriptorsNewConnectionsAreRefusedAndOpenOnesLive(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.overPaths(func(p *path) {
		p.runShort(p.client.Node)
		if p.server.Node != p.client.Node {
			p.runShort(p.server.Node)
		}
	})
}

// runShort has the node's ztunnel run out of descriptors while connections are
// open through it, and others come.
func (p *path) runShort(node *lab.Node) {
	const count, room = 100, 30
	p.Helper()
	to := p.target()
	p.serve(p.server.Place, agent.Echo, to.Port())
	a, err := p.client.Agent()
	p.must(err)
	many := agent.Many{Network: p.network, To: to, Count: count}
	first, err := a.Many(p.ctx, many)
	p.must(err)
	if first.OK != count {
		p.Fatalf("%d of %d connections echo, failed %v", first.OK, count, first.Failed)
	}
	limited := p.limited(node)
	enough := p.leaveRoom(node, room)
	start := time.Now()
	second, err := a.Many(p.ctx, many)
	p.must(err)
	took, refused := time.Since(start), second.Failed["ECONNRESET"]
	if second.OK > room || second.OK+refused != count {
		p.Errorf("with room for %d on %s, %d of %d were let in, failed %v", room, node.Name, second.OK, count, second.Failed)
	}
	if took > 10*time.Second {
		p.Errorf("refusing took %v", took)
	}
	again, err := a.ManyCheck(p.ctx, first.ID)
	p.must(err)
	if again.OK != count {
		p.Errorf("%d of %d open connections live on, failed %v", again.OK, count, again.Failed)
	}
	enough()
	p.must(p.client.Ping(p.ctx, p.network, to, "there is room again"))
	p.must(errors.Join(a.ManyClose(p.ctx, first.ID), a.ManyClose(p.ctx, second.ID)))
	p.within(10*time.Second, func() string {
		outbound, inbound := p.records(p.client.Node, "outbound", to), p.records(p.server.Node, "inbound", to)
		good := count + second.OK + 1
		if out, in := with("ok", outbound), with("ok", inbound); out != good || in != good {
			return fmt.Sprintf("%d outbound and %d inbound records of %d good connections", out, in, good)
		}
		if got := p.limited(node) - limited; got != refused {
			return fmt.Sprintf("%d records of %d refused connections", got, refused)
		}
		return ""
	})
}

// limited is how many connections the node refused for want of something.
func (s *story) limited(n *lab.Node) int {
	s.Helper()
	all, err := n.Records()
	s.must(err)
	return with("limit", all)
}

// with counts the records that have a word for the result.
func with(word string, records []lab.Record) (count int) {
	for _, r := range records {
		if r.Get("result") == word {
			count++
		}
	}
	return count
}

// leaveRoom lets the node's ztunnel open only so many descriptors more.
func (s *story) leaveRoom(n *lab.Node, more int) (enough func()) {
	s.Helper()
	pid := n.Ztunnel.PID()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.must(err)
	open := map[int]bool{}
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		s.must(err)
		open[fd] = true
	}
	// The limit is of numbers, and some below the highest are free.
	limit := 0
	for free := 0; free < more; limit++ {
		if !open[limit] {
			free++
		}
	}
	var before unix.Rlimit
	s.must(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before))
	s.must(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(limit), Max: before.Max}, nil))
	return func() { s.must(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil)) }
}
