// SPDX-License-Identifier: Apache-2.0

// Package redirect steers the connections of enrolled pods to ztunnel. It is
// the Go twin of bpf/: it loads and pins the programs, keeps their maps, and
// opens the sockets that they must know.
//
// A pod is enrolled by Listen, Route, SteerInbound and SteerOutbound, in that
// order, and left by the opposites in reverse. Each step may be repeated.
// Whatever of it is missing, the kernel refuses; see bpf/README.md.
package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// amd64 and arm64, on which Culvert runs, are little-endian: there is no object
// for others.
//
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I../../bpf/include" -type counter -type listener_kind -type sock_kind mesh ../../bpf/mesh.bpf.c

// Datapath is the loaded programs and what they know. It outlives the process
// in its pins: with ztunnel gone, enrolled pods are refused, not released.
type Datapath struct {
	opts     Options
	point    string // where its bpffs is mounted
	lock     *Lock  // of opts.BPFFS
	pins     pins
	mesh     meshObjects
	standIns []netip.Prefix // IPv4, IPv6
	counters []string       // names, by index

	legs legs

	refusing refusing
	met      met

	routing netns.Locks // held while a netns is changed

	mu        sync.Mutex
	anchors   []*anchor // the cgroup programs
	swept     time.Time // when destinations were that nobody took
	pods      map[netns.Cookie]*pod
	unsound   error  // what Verify could not put right the last time
	kubelet   uint64 // the cgroup that the programs know as kubelet's, or 0
	noKubelet error  // why that is 0, though one is configured
}

// Load loads the programs and attaches those of the cgroup. What an earlier
// run left in opts.BPFFS is taken over: maps with their entries, and links,
// whose programs are replaced in one step. Before it changes anything, it
// takes the Lock of opts.BPFFS, until Close.
func Load(opts Options) (*Datapath, error) {
	standIns, err := opts.validate()
	if err != nil {
		return nil, fmt.Errorf("redirect options: %w", err)
	}
	if err := errors.Join(probe(), openSysctls()); err != nil {
		return nil, err
	}
	point, err := bpffsPoint(opts.BPFFS)
	if err != nil {
		return nil, err
	}
	lock, err := LockDir(opts.BPFFS)
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	d := &Datapath{opts: opts, point: point, lock: lock, pins: newPins(opts.BPFFS), standIns: standIns,
		pods: make(map[netns.Cookie]*pod)}
	steps, err := d.steps()
	for _, step := range steps {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// steps are what Load does, one after another. A process that dies between two
// leaves no pod to itself, and the next begins anew.
func (d *Datapath) steps() ([]func() error, error) {
	spec, err := loadMesh()
	if err != nil {
		return nil, fmt.Errorf("read programs: %v", err)
	}
	earlier, err := formers(d.pins.root)
	if err != nil {
		return nil, err
	}
	steps := []func() error{d.pins.make}
	var loaded, last []func() error
	for _, f := range earlier {
		links, err := d.carryLinks(f)
		if err != nil {
			return nil, err
		}
		dropped, err := d.dropFormer(f)
		if err != nil {
			return nil, err
		}
		steps = slices.Concat(steps, d.carryMaps(f, spec.Maps), links)
		if f.version == 1 {
			loaded = append(loaded, func() error { return d.noteRouting(f) })
		}
		last = append(last, dropped...)
	}
	load := func() error { return d.load(spec) }
	steps = append(append(steps, load), loaded...)
	steps = append(steps, d.setExclusions, d.forgetNobody, d.followKubelet, d.attach, d.adopt)
	return append(steps, last...), nil
}

func (d *Datapath) load(spec *ebpf.CollectionSpec) (err error) {
	if d.counters, err = enumerators(spec, "counter"); err != nil {
		return err
	}
	if err := errors.Join(
		spec.Variables[meshVarHostNetns].Set(uint64(d.opts.HostNetns)),
		spec.Variables[meshVarInnerMark].Set(uint32(innerMark)),
		spec.Variables[meshVarExclusions].Set(uint32(len(d.opts.ExcludeCIDRs)+len(d.opts.ExcludePorts))),
		spec.Variables[meshVarStandIn4].Set(wirePrefix(d.standIn(unix.AF_INET))),
		spec.Variables[meshVarStandIn6].Set(wirePrefix(d.standIn(unix.AF_INET6))),
		spec.Variables[meshVarStandIns].Set(standInID(d.standIns)),
	); err != nil {
		return fmt.Errorf("configure programs: %v", err)
	}
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.pins.dir}}
	if err := spec.LoadAndAssign(&d.mesh, opts); err != nil {
		return fmt.Errorf("load programs: %w", explain(err))
	}
	d.legs.room = int(d.mesh.Inner.MaxEntries())
	return nil
}

// explain adds the verifier's log: a program it rejects is the one report
// that cannot be acted on without it.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%+v", verifier)
	}
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("%v: pinned in an unknown layout: drain the node and remove the pins", err)
	}
	return err
}

func enumerators(spec *ebpf.CollectionSpec, name string) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName(name, &enum); err != nil {
		return nil, fmt.Errorf("read enum %s: %v", name, err)
	}
	names := make([]string, len(enum.Values))
	for _, v := range enum.Values {
		names[v.Value] = strings.ToLower(v.Name)
	}
	return names, nil
}

// Stats returns the programs' counters: why sockets went where they went. One is
// the kernel's: see met; and one is of our own dials.
func (d *Datapath) Stats() map[string]uint64 {
	stats := make(map[string]uint64, len(d.counters))
	for i, name := range d.counters[:len(d.counters)-1] { // the last counts the others
		var perCPU []uint64
		if err := d.mesh.Counters.Lookup(uint32(i), &perCPU); err != nil {
			continue // only while closing
		}
		for _, n := range perCPU {
			stats[name] += n
		}
	}
	stats["inbound_syn_met_socket"] = d.met.count(d.steeredNetns())
	stats["inner_low_port_forbidden"] = d.legs.forbidden.Load()
	return stats
}

// Close lets go of the programs. Pins keep them attached: connections of
// enrolled pods are refused until another Load and Listen.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.anchors {
		a.close()
	}
	for _, p := range d.pods {
		p.anchor.close()
	}
	clear(d.pods)
	return errors.Join(d.mesh.Close(), d.lock.Close())
}

// Unpin detaches everything and removes the pins: all pods of this instance
// are as if never enrolled. Close still has to be called.
func (d *Datapath) Unpin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range slices.Concat(d.anchors, podAnchors(d.pods)) {
		a.close()
	}
	d.anchors = nil
	clear(d.pods)
	return d.pins.remove()
}

func podAnchors(pods map[netns.Cookie]*pod) []*anchor {
	var found []*anchor
	for p := range maps.Values(pods) {
		found = append(found, p.anchor)
	}
	return found
}

// Adopted says which pods the pins of an earlier run hold. Without a directory, which
// an interrupted Remove leaves, they are none.
func (p pins) adopted() ([]netns.Cookie, error) {
	entries, err := os.ReadDir(p.pods)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pins of pods: %w", err)
	}
	var found []netns.Cookie
	for _, e := range entries {
		if cookie, ok := parseCookie(e.Name()); ok {
			found = append(found, cookie)
		}
	}
	return found, nil
}
