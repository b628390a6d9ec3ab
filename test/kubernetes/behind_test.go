// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

func TestTheClusterLeavesNothingBehind(t *testing.T) {
	needRoot(t)
	const name = "test-behind"
	takeDown(t, name)
	before := observe(t)
	if err := start(name, "-cgroups", "v2"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { takeDown(t, name) })
	c := use(t, name)
	c.makeWeb()
	if got := c.enter("node1", "stat", "--file-system", "--format=%T", "/sys/fs/cgroup"); got != "cgroup2fs" {
		t.Errorf("with -cgroups v2, a node's /sys/fs/cgroup is %s", got)
	}
	held := namespacesOf(t, name)
	takeDown(t, name)
	nothingLeft(t, name, held)
	before.compare(t, observe(t))
}

func TestAKilledClusterIsRemovedByTheNextCommand(t *testing.T) {
	needRoot(t)
	const name = "test-killed"
	takeDown(t, name)
	before := observe(t)
	t.Cleanup(func() { takeDown(t, name) })

	up := exec.Command(program, "up", "-name", name)
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := cluster.NodePID(name, "node2"); return err })
	held := namespacesOf(t, name)
	_ = up.Process.Kill()
	_ = up.Wait()
	gone(t, held)

	if err := start(name); err != nil {
		t.Fatalf("start it where another was killed: %v", err)
	}
	held = namespacesOf(t, name)
	if err := syscall.Kill(supervisor(t, name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, held)
	takeDown(t, name)
	nothingLeft(t, name, held)
	before.compare(t, observe(t))
}

// machine is what a cluster must not change.
type machine map[string]string

// observe reads the links of this machine, its packet filter and its sysctls.
func observe(t *testing.T) machine {
	t.Helper()
	seen := make(machine)
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		seen["link "+link.Name] = link.Flags.String()
	}
	if rules, err := exec.Command("nft", "list", "ruleset").Output(); err == nil {
		seen["nftables"] = string(rules)
	}
	err = filepath.WalkDir("/proc/sys", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || moving(path) {
			return nil
		}
		if text, err := os.ReadFile(path); err == nil {
			seen["sysctl "+path] = string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// moving is what changes by itself: what is counted, drawn at random, or estimated.
func moving(path string) bool {
	return slices.ContainsFunc([]string{"/random/", "/quota/", "nr", "state", "count", "last_pid", "perf_", "sched_"},
		func(part string) bool { return strings.Contains(path, part) })
}

func (before machine) compare(t *testing.T, after machine) {
	t.Helper()
	for what, value := range before {
		if now, ok := after[what]; !ok || now != value {
			t.Errorf("%s was %q, is %q", what, value, now)
		}
	}
	for what, value := range after {
		if _, ok := before[what]; !ok {
			t.Errorf("%s is new: %q", what, value)
		}
	}
}

// supervisor is the cluster's first process: the parent of its nodes.
func supervisor(t *testing.T, name string) int {
	t.Helper()
	pid, err := cluster.NodePID(name, "node1")
	if err != nil {
		t.Fatal(err)
	}
	return parent(pid)
}

// parent returns a process's, or 0.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// namespacesOf returns the namespaces of all processes of a cluster, but those that are
// ours too. Nothing of the cluster is outside of them but its directory and cgroups.
func namespacesOf(t *testing.T, name string) map[string]bool {
	t.Helper()
	first := supervisor(t, name)
	held := make(map[string]bool)
	forEachProcess(func(pid int, namespaces []string) {
		for at := pid; at > 1; at = parent(at) {
			if at == first {
				for _, ns := range namespaces {
					held[ns] = true
				}
			}
		}
	})
	for _, ns := range namespaces("self") {
		delete(held, ns)
	}
	if len(held) < 10 {
		t.Fatalf("a cluster of two nodes has at least ten namespaces of its own, found %v", held)
	}
	return held
}

func forEachProcess(visit func(pid int, namespaces []string)) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			visit(pid, namespaces(entry.Name()))
		}
	}
}

// namespaces returns a process's, such as "net:[4026532291]".
func namespaces(process string) []string {
	paths, _ := filepath.Glob("/proc/" + process + "/ns/*")
	var found []string
	for _, path := range paths {
		if ns, err := os.Readlink(path); err == nil {
			found = append(found, ns)
		}
	}
	return found
}

// gone waits until no process is in any of the namespaces: dying takes a moment.
func gone(t *testing.T, held map[string]bool) {
	t.Helper()
	eventually(t, func() error {
		var alive error
		forEachProcess(func(pid int, namespaces []string) {
			if i := slices.IndexFunc(namespaces, func(ns string) bool { return held[ns] }); i >= 0 {
				alive = fmt.Errorf("process %d is in %s, which was the cluster's", pid, namespaces[i])
			}
		})
		return alive
	})
}

// nothingLeft checks all that a cluster could leave outside of its namespaces, and that
// nothing holds these.
func nothingLeft(t *testing.T, name string, held map[string]bool) {
	t.Helper()
	gone(t, held)
	if _, err := os.Stat(cluster.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", cluster.Dir(name), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for mount := range strings.Lines(string(mounts)) {
		fields := strings.Fields(mount)
		if strings.Contains(mount, cluster.Dir(name)+"/") || held[fields[3]] {
			t.Errorf("still mounted: %s", mount)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "culvert-"+name+"-") {
			t.Errorf("still a cgroup: %s", path)
		}
		return nil
	})
}
