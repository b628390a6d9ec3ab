// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// scanned marks the record of a sandbox that was found in /proc: its container
// ID is not known, so it ends with its netns or with any DEL of its pod.
const scanned = "scanned-"

func isScanned(s sandbox) bool { return strings.HasPrefix(s.ContainerID, scanned) }

// discover finds the sandboxes of pods that should be in the mesh and of which
// neither the plugin nor a record told: they started before Culvert came.
func (p *Pods) discover() {
	known := map[string]bool{}
	for _, pod := range p.all() {
		known[pod.PodUID] = true
	}
	for _, w := range p.Registry.Local(p.Node) {
		if known[w.UID] || !p.wanted(w) || len(w.Addrs) == 0 {
			continue
		}
		s, err := p.findSandbox(sandbox{ContainerID: scanned + w.UID, PodUID: w.UID, Namespace: w.Namespace, Name: w.Name,
			BootID: p.boot, IPs: w.Addrs})
		if err != nil {
			p.Log.Debug("no sandbox found", "pod", w.Namespace+"/"+w.Name, "error", err)
			continue
		}
		p.Log.Info("found the sandbox of a running pod", "pod", s.String(), "netns", s.Netns)
		if err := p.record(s); err != nil {
			p.Log.Error("recording sandbox", "pod", s.String(), "error", err)
		}
	}
}

// findSandbox completes the record of a pod by its netns, which it looks for
// through the processes in the pod's cgroup. The oldest process counts, and its
// netns must hold every address of the pod and none of another: a process of
// somebody else may be visiting (istio#61211), and a pod that may write to its
// cgroup and its devices can look like one that it is not.
func (p *Pods) findSandbox(s sandbox) (sandbox, error) {
	pid, err := oldestProcess(s.PodUID)
	if err != nil {
		return sandbox{}, err
	}
	s.Netns = filepath.Join("/proc", strconv.Itoa(pid), "ns/net")
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return sandbox{}, err
	}
	defer ns.Close()
	held, err := p.mayHold(ns, s.IPs)
	if err != nil {
		return sandbox{}, fmt.Errorf("%s: %w", s.Netns, err)
	}
	for _, addr := range held {
		if other, ok := p.otherWith(addr, s.PodUID); ok {
			return sandbox{}, fmt.Errorf("%s: holds %v, which is the address of pod %s", s.Netns, addr, other)
		}
	}
	s.Cookie, s.Inode = ns.Cookie(), ns.Inode()
	return s, p.unclaimed(s)
}

// unclaimed reports that s's netns is known as that of another pod.
func (p *Pods) unclaimed(s sandbox) error {
	for _, other := range p.all() {
		if other.Cookie == s.Cookie && other.PodUID != s.PodUID {
			return fmt.Errorf("netns %s is enrolled as pod %v already", s.Netns, other.sandbox)
		}
	}
	return nil
}

// otherWith names another pod than podUID which has that address: by what the
// plugin said of it, by the registry's word, or because it was enrolled first.
func (p *Pods) otherWith(addr netip.Addr, podUID string) (name string, ok bool) {
	for _, pod := range p.all() {
		if pod.PodUID != podUID && slices.Contains(pod.IPs, addr) {
			return pod.String(), true
		}
	}
	for m := range p.served() {
		if m.PodUID != podUID && slices.Contains(m.addrs, addr) {
			return m.String(), true
		}
	}
	w, ok := p.Registry.ByAddr(addr)
	return w.String(), ok && w.UID != podUID
}

// mayHold returns the addresses of ns, or why it cannot be the netns of a pod
// that has those in want.
func (p *Pods) mayHold(ns *netns.NS, want []netip.Addr) ([]netip.Addr, error) {
	if ns.Cookie() == p.Host {
		return nil, errors.New("is the node's own netns")
	}
	held, err := ns.Addrs()
	if err != nil {
		return nil, err
	}
	for _, addr := range want {
		if !slices.Contains(held, addr.Unmap()) {
			return nil, fmt.Errorf("does not hold the pod's address %v", addr)
		}
	}
	return held, nil
}

// oldestProcess returns the process that has been longest in the cgroup of the
// pod: the kubelet and the runtimes put the pod UID into the cgroup's name,
// the systemd driver with underscores.
func oldestProcess(podUID string) (int, error) {
	if len(podUID) < 8 {
		return 0, fmt.Errorf("pod UID %q is too short to search for", podUID)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	oldest, since := 0, uint64(0)
	for _, dir := range dirs {
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || !bytes.Contains(cgroup, []byte(podUID)) &&
			!bytes.Contains(cgroup, []byte(strings.ReplaceAll(podUID, "-", "_"))) {
			continue
		}
		start, err := startTime(dir)
		if err != nil {
			continue // it just ended
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if oldest == 0 || start < since {
			oldest, since = pid, start
		}
	}
	if oldest == 0 {
		return 0, fmt.Errorf("no process in a cgroup of pod %s", podUID)
	}
	return oldest, nil
}

// startTime is field 22 of /proc/PID/stat (proc(5)), in ticks since boot. The
// command name before it may hold spaces and parentheses.
func startTime(dir string) (uint64, error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
