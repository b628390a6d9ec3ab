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
	ownLane.join(t)
	name := clusterName("behind")
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
	ours := processesOf(t, name)
	takeDown(t, name)
	nothingLeft(t, name, ours)
	before.compare(t, observe(t))
}

func TestAKilledClusterIsRemovedByTheNextCommand(t *testing.T) {
	needRoot(t)
	ownLane.join(t)
	name := clusterName("killed")
	takeDown(t, name)
	before := observe(t)
	t.Cleanup(func() { takeDown(t, name) })

	if err := imagesBuilt(); err != nil {
		t.Fatal(err)
	}
	up := exec.Command(program, "up", "-name", name, "-images", imagesDir)
	up.Stderr = t.Output()
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // or it goes on after the test
		_ = up.Process.Kill()
		_ = up.Wait()
	})
	eventually(t, func() error { _, err := cluster.NodePID(name, "node2"); return err })
	ours := processesOf(t, name)
	_ = up.Process.Kill()
	_ = up.Wait()
	gone(t, ours)

	if err := start(name); err != nil {
		t.Fatalf("start it where another was killed: %v", err)
	}
	ours = processesOf(t, name)
	if err := syscall.Kill(supervisor(t, name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, ours)
	takeDown(t, name)
	nothingLeft(t, name, ours)
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
	_, parent := stat(strconv.Itoa(pid))
	first, err := strconv.Atoi(parent)
	if err != nil {
		t.Fatalf("the parent of process %d: %v", pid, err)
	}
	return first
}

// identity of a process: its number is used again, but not with the same start.
type identity struct{ pid, start string }

// stat returns a process's identity and its parent's number, or zero values.
func stat(pid string) (identity, string) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return identity{}, ""
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the third on
	return identity{pid, fields[19]}, fields[1]
}

// processesOf returns all processes of a cluster: those that descend from its first one.
// Its mounts and network namespaces are held by nothing else.
func processesOf(t *testing.T, name string) []identity {
	t.Helper()
	first := strconv.Itoa(supervisor(t, name))
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []identity
	for _, entry := range entries {
		for at := entry.Name(); at != "" && at != "0"; _, at = stat(at) {
			if process, _ := stat(entry.Name()); at == first {
				found = append(found, process)
			}
		}
	}
	if len(found) < 5 {
		t.Fatalf("a cluster has etcd, an API server, two nodes and a supervisor at least; found %v", found)
	}
	return found
}

// gone waits until none of the processes is there: dying takes a moment.
func gone(t *testing.T, processes []identity) {
	t.Helper()
	eventually(t, func() error {
		for _, process := range processes {
			if now, _ := stat(process.pid); now == process {
				return fmt.Errorf("process %s of the cluster has not ended", process.pid)
			}
		}
		return nil
	})
}

// nothingLeft checks all that a cluster could leave beside its processes.
func nothingLeft(t *testing.T, name string, processes []identity) {
	t.Helper()
	gone(t, processes)
	if _, err := os.Stat(cluster.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", cluster.Dir(name), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for mount := range strings.Lines(string(mounts)) {
		if strings.Contains(mount, cluster.Dir(name)+"/") {
			t.Errorf("still mounted: %s", mount)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "culvert-"+name+"-") {
			t.Errorf("still a cgroup: %s", path)
		}
		return nil // a cgroup of somebody else's may go meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
}
