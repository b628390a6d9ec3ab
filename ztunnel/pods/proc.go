// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// scanned marks the record of a sandbox that was found in /proc: its container
// ID is not known, so it ends with its netns or with a DEL of its pod.
const scanned = "scanned-"

func isScanned(s sandbox) bool { return strings.HasPrefix(s.ContainerID, scanned) }

// process is one that /proc shows.
type process struct {
	dir    string // in /proc
	pid    int
	cgroup string // the text of its cgroup file
	netns  uint64 // inode
	start  uint64 // in ticks since boot
}

// processes are all that /proc shows but this one, whose threads visit pods;
// the oldest first. It costs three files of each: ask once for all pods.
func processes() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is sound
	var found []process
	for _, dir := range dirs {
		p, err := readProcess(dir)
		if err != nil || p.pid == os.Getpid() {
			continue // it just ended
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b process) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) })
	return found
}

func readProcess(dir string) (p process, err error) {
	p.dir = dir
	if p.pid, err = strconv.Atoi(filepath.Base(dir)); err != nil {
		return p, err
	}
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return p, err
	}
	p.cgroup = string(cgroup)
	if p.netns, err = inode(p.path()); err != nil {
		return p, err
	}
	p.start, err = startTime(dir)
	return p, err
}

// path leads to the process's netns.
func (p process) path() string { return filepath.Join(p.dir, "ns/net") }

// of reports whether the process is in the cgroup of that pod: the kubelet and
// the runtimes put the pod's UID into the cgroup's name, the systemd driver with
// underscores.
func (p process) of(podUID string) bool {
	return len(podUID) >= 8 && // else it could be part of anything
		(strings.Contains(p.cgroup, podUID) || strings.Contains(p.cgroup, strings.ReplaceAll(podUID, "-", "_")))
}

// Caller returns the pod of the mesh whose process a pid is, by its UID, and its identity.
// Two things must say so: the process is in the netns of the pod's sandbox, and its cgroup
// has the pod's UID. A pod may name cgroups below its own; a process of somebody else may
// visit its netns.
func (p *Pods) Caller(pid int) (podUID string, id spiffeid.ID, err error) {
	proc, err := readProcess(filepath.Join("/proc", strconv.Itoa(pid)))
	if err != nil {
		return "", spiffeid.ID{}, err
	}
	for _, pod := range p.all() {
		m := pod.shown.Load().member
		if m != nil && m.ns.Inode() == proc.netns && proc.of(m.PodUID) {
			return m.PodUID, m.id, nil
		}
	}
	return "", spiffeid.ID{}, errors.New("it is no process of a pod that is in the mesh on this node")
}

// discover finds the sandboxes of pods that should be in the mesh and of which
// neither the plugin nor a record told, as they started before Culvert came or
// the record was lost; and whose the netns are that are steered and that nobody
// explains.
func (p *Pods) discover() {
	known := map[string]bool{}
	for _, pod := range p.all() {
		if s := pod.sandbox(); !s.deleted() {
			known[s.PodUID] = true
		}
	}
	unexplained := p.leftovers()
	var missing []workload.Workload
	for _, w := range p.Registry.Local(p.Node) {
		if !known[w.UID] && len(w.Addrs) > 0 && (p.wanted(w) || len(unexplained) > 0) {
			missing = append(missing, w)
		}
	}
	unfound := map[string]string{}
	if len(missing) > 0 {
		running := processes()
		for _, w := range missing {
			if err := p.discoverPod(w, running, unexplained); err != nil {
				unfound[w.String()] = err.Error()
			}
		}
	}
	p.mu.Lock()
	before := p.unfound
	p.unfound = unfound
	p.mu.Unlock()
	for name, reason := range unfound {
		if before[name] != reason {
			p.Log.Warn("no sandbox found of a pod that belongs in the mesh", logPod, name, logReason, reason)
		}
	}
}

// discoverPod records the sandbox of w if it belongs in the mesh, or explains a
// netns that is steered. It returns why a pod of the mesh was not found.
func (p *Pods) discoverPod(w workload.Workload, running []process, unexplained []redirect.Leftover) error {
	s, err := p.findSandbox(sandbox{ContainerID: scanned + w.UID, PodUID: w.UID, Namespace: w.Namespace, Name: w.Name,
		BootID: p.boot, Networks: []network{{IPs: w.Addrs}}}, running)
	explains := slices.ContainsFunc(unexplained, func(l redirect.Leftover) bool { return l.Cookie == s.Cookie })
	switch {
	case !p.wanted(w) && (err != nil || !explains):
		return nil
	case err != nil:
		return err
	}
	if old, ok := p.byCookie(s.Cookie); ok && old.sandbox().deleted() {
		return nil // the runtime is about to end it
	}
	p.Log.Info("found the sandbox of a running pod", logPod, s.String(), logNetns, s.Netns, logSteered, explains)
	_, err = p.record(s)
	return err
}

// findSandbox completes the record of a pod by its netns, which it looks for
// through the processes in the pod's cgroup. The oldest process counts, and its
// netns must hold an address of the pod and none of another: a process of
// somebody else may be visiting (istio#61211), and a pod that may write to its
// cgroup and its devices can look like one that it is not.
func (p *Pods) findSandbox(s sandbox, running []process) (sandbox, error) {
	i := slices.IndexFunc(running, func(proc process) bool { return proc.of(s.PodUID) })
	if i < 0 {
		return sandbox{}, fmt.Errorf("/proc shows no process in a cgroup of pod UID %s: does ztunnel see the processes of the host (hostPID)?", s.PodUID)
	}
	s.Netns = running[i].path()
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return sandbox{}, err
	}
	defer ns.Close()
	held, err := p.mayHold(ns, s.ips())
	if err != nil {
		return sandbox{}, fmt.Errorf("%s: %w", s.Netns, err)
	}
	s.Cookie, s.Inode = ns.Cookie(), ns.Inode()
	if pod, known := p.byCookie(s.Cookie); known && pod.sandbox().mayBeOf(s) {
		return s, nil // the plugin knew no UID, and the addresses are those it told of
	}
	for _, addr := range held {
		if other, ok := p.otherWith(addr, s.PodUID); ok {
			return sandbox{}, fmt.Errorf("%s: holds %v, which is the address of pod %s", s.Netns, addr, other)
		}
	}
	return s, p.unclaimed(s)
}

// unclaimed reports that s's netns is known as that of another pod.
func (p *Pods) unclaimed(s sandbox) error {
	if other, ok := p.byCookie(s.Cookie); ok && !other.sandbox().mayBeOf(s) {
		return fmt.Errorf("netns %s is enrolled as pod %v already", s.Netns, other)
	}
	return nil
}

// otherWith names another pod than podUID which has that address.
func (p *Pods) otherWith(addr netip.Addr, podUID string) (name string, ok bool) {
	p.takers.mu.Lock()
	defer p.takers.mu.Unlock()
	return p.others(podUID)(addr)
}

// mayHold returns the addresses of ns, or why it cannot be the netns of a pod
// that has those in want: it holds none of them. It need not hold all, as IPv6
// may be off.
func (p *Pods) mayHold(ns *netns.NS, want []netip.Addr) ([]netip.Addr, error) {
	if ns.Cookie() == p.Host {
		return nil, errors.New("is the node's own netns")
	}
	held, err := heldIn(ns, want)
	if err != nil {
		return nil, err
	}
	if !holdsOneOf(held, want) && len(want) > 0 {
		return nil, fmt.Errorf("holds none of the pod's addresses %v", want)
	}
	return held, nil
}

// heldIn returns the addresses of ns. Of those that are tentative only the pod's
// own count, which the plugin hands over before they are settled.
func heldIn(ns *netns.NS, own []netip.Addr) ([]netip.Addr, error) {
	held, tentative, err := ns.Addrs()
	for _, addr := range own {
		if slices.Contains(tentative, addr.Unmap()) {
			held = append(held, addr.Unmap())
		}
	}
	return held, err
}

func holdsOneOf(held, want []netip.Addr) bool {
	return slices.ContainsFunc(want, func(addr netip.Addr) bool { return slices.Contains(held, addr.Unmap()) })
}

// holder returns a path that leads to the netns of that inode and cookie: what
// a process or a mount holds. The inode alone may be another's by now.
func holder(inode uint64, cookie netns.Cookie, running []process) (path string, ok bool) {
	paths := mounts(inode)
	for _, proc := range running {
		if proc.netns == inode {
			paths = append(paths, proc.path())
		}
	}
	for _, path := range paths {
		ns, err := netns.Open(path)
		if err != nil {
			continue
		}
		same := ns.Cookie() == cookie
		ns.Close()
		if same {
			return path, true
		}
	}
	return "", false
}

// mounts are the paths at which that netns is mounted, here or in the mounts of
// the host's first process, which has those of the runtime.
func mounts(inode uint64) (paths []string) {
	for _, from := range []struct{ info, root string }{{mountinfo.Self, ""}, {"/proc/1/mountinfo", "/proc/1/root"}} {
		all, err := mountinfo.Read(from.info)
		if err != nil {
			continue
		}
		for _, m := range all {
			if m.Root == fmt.Sprintf("net:[%d]", inode) {
				paths = append(paths, from.root+m.Point)
			}
		}
	}
	return paths
}

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
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
