// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Other is a BPF program of another hand that may change what apps of pods see of their
// connections.
type Other struct {
	ID   uint32 `json:"id"` // bpftool prog show id ID
	Name string `json:"name"`
	Kind string `json:"kind"` // sock_ops, connect4, connect6, sk_msg or sk_skb
}

// otherHooks are those on a cgroup that are told.
var otherHooks = []struct {
	kind string
	at   ebpf.AttachType
}{
	{"sock_ops", ebpf.AttachCGroupSockOps},
	{"connect4", ebpf.AttachCGroupInet4Connect},
	{"connect6", ebpf.AttachCGroupInet6Connect},
}

// otherTypes are of programs that the kernel does not list by cgroup: they run for sockets
// in a sockmap, whose apps may miss bytes and wake-ups.
var otherTypes = map[ebpf.ProgramType]string{ebpf.SkMsg: "sk_msg", ebpf.SkSKB: "sk_skb"}

// Others lists the programs of other hands that run in the cgroup of Options, by hook, and
// those for sockmaps of the whole machine.
func (d *Datapath) Others() ([]Other, error) {
	hooked, err := d.othersHooked()
	if err != nil {
		return nil, err
	}
	loaded, err := othersLoaded()
	return append(hooked, loaded...), err
}

func (d *Datapath) othersHooked() (all []Other, err error) {
	cgroup, err := os.Open(d.opts.Cgroup)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	ours, err := d.ours()
	if err != nil {
		return nil, err
	}
	for _, hook := range otherHooks {
		there, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: hook.at, QueryFlags: queryEffective})
		if err != nil {
			return nil, fmt.Errorf("%s programs of cgroup %s: %w", hook.kind, d.opts.Cgroup, err)
		}
		for _, p := range there.Programs {
			info, err := programInfo(p.ID)
			if errors.Is(err, os.ErrNotExist) {
				continue // unloaded meanwhile
			}
			if err != nil {
				return nil, err
			}
			if ours[info.Name] {
				continue
			}
			all = append(all, Other{ID: uint32(p.ID), Name: info.Name, Kind: hook.kind})
		}
	}
	return all, nil
}

// ours are the names of the programs on the cgroup that this Datapath attached. Those of
// another version, which takes over, have the same.
func (d *Datapath) ours() (map[string]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]bool{}
	for _, a := range d.anchors {
		info, err := a.prog.Info()
		if err != nil {
			return nil, err
		}
		all[info.Name] = true
	}
	return all, nil
}

func othersLoaded() (all []Other, err error) {
	for id := ebpf.ProgramID(0); ; {
		id, err = ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("list BPF programs: %w", err)
		}
		info, err := programInfo(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, err
		}
		if kind := otherTypes[info.Type]; kind != "" {
			all = append(all, Other{ID: uint32(id), Name: info.Name, Kind: kind})
		}
	}
}

func programInfo(id ebpf.ProgramID) (*ebpf.ProgramInfo, error) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, fmt.Errorf("BPF program %d: %w", id, err)
	}
	defer prog.Close()
	return prog.Info()
}
