// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
)

// census counts everything on a node that a pod may leave behind.
type census map[string]int

// census counts from outside of ztunnel where it can: descriptors by /proc,
// map entries and pins by bpffs, devices and rules by netlink.
func (s *story) census(n *lab.Node) census {
	s.Helper()
	c := census{}
	s.countDescriptors(n, c)
	s.countGoroutines(n, c)
	s.countPins(n, c)
	s.countFiles(c, "sandbox records", filepath.Join(n.State, "sandboxes"))
	s.must(env.InNetns(n.Host.Netns, func() error { return countNetwork(c) }))
	dump, err := n.Dump(s.ctx)
	s.must(err)
	c["sandboxes"] = len(dump.Pods)
	return c
}

func (s *story) countDescriptors(n *lab.Node, c census) {
	s.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", n.Ztunnel.PID())
	entries, err := os.ReadDir(dir)
	s.must(err)
	pollers := 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if target == "anon_inode:[eventpoll]" {
			pollers++
			continue
		}
		c["descriptors"]++
		if strings.HasPrefix(target, "net:") {
			c["descriptors of netns"]++
		}
	}
	c["pollers"] = max(pollers, mostPollers)
}

// mostPollers is how many epoll instances are no leak: those in which tunnels rest, eight at
// most (socket.Wait), come with the first that does so, which may be seconds after a census, and
// go with the last. Go's own and those of ring buffers stay.
const mostPollers = 12

func (s *story) countGoroutines(n *lab.Node, c census) {
	s.Helper()
	status, body, err := n.AdminGet(s.ctx, "/debug/pprof/goroutine?debug=1")
	s.must(err)
	var total int
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &total); err != nil || status != http.StatusOK {
		s.Fatalf("goroutines of %s: status %d, %v", n.Name, status, err)
	}
	c["goroutines"] = total
}

// countPins counts what is pinned, and the entries of each pinned map.
func (s *story) countPins(n *lab.Node, c census) {
	s.Helper()
	s.must(filepath.WalkDir(n.BPFFS, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		c["pins"]++
		if filepath.Dir(path) != filepath.Join(n.BPFFS, "v2") {
			return nil // of links
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return err
		}
		defer m.Close()
		// Entries of the one live and die with sockets, those of the other never.
		if m.Type() != ebpf.SkStorage && m.Type() != ebpf.PerCPUArray {
			c["entries of "+d.Name()], err = entries(m)
		}
		return err
	}))
}

func entries(m *ebpf.Map) (count int, err error) {
	key, err := m.NextKeyBytes(nil)
	for ; key != nil && err == nil; key, err = m.NextKeyBytes(key) {
		count++
	}
	return count, err
}

func (s *story) countFiles(c census, what, dir string) {
	s.Helper()
	files, err := os.ReadDir(dir)
	s.must(err)
	c[what] = len(files)
}

// countNetwork counts in the thread's netns. A pod's end of a veth goes with
// its netns, and takes the node's end along: what is left of netns shows here.
func countNetwork(c census) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	c["devices of the node"], c["rules of the node"] = len(links), len(rules)
	return err
}

// wantNothingNew waits until the node has no more of anything than it had. It may
// have less: of a connection that was idle then, and timed out; of a pod that was
// deleted before, which stays refused until the kernel says that its netns is gone.
func (s *story) wantNothingNew(n *lab.Node, before census) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left := more(before, s.census(n))
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Errorf("%s was not left as it was: %s", n.Name, strings.Join(left, ", "))
			return
		}
	}
}

func more(before, after census) (left []string) {
	for _, what := range slices.Sorted(maps.Keys(after)) {
		if after[what] > before[what] {
			left = append(left, fmt.Sprintf("%s: %d, were %d", what, after[what], before[what]))
		}
	}
	return left
}
