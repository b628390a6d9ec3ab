// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Programs of other hands are told, those of ztunnel are not.
func TestProgramsOfOthersAreTold(t *testing.T) {
	w := newWorld(t)
	of := func() (kinds []string) {
		all, err := w.d.Others()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if o.Name == "another" {
				kinds = append(kinds, o.Kind)
			}
			if slices.Contains(hookNames, o.Name) || o.Name == "outbound_sockop" {
				t.Errorf("our own is told: %+v", o)
			}
		}
		return kinds
	}
	if kinds := of(); kinds != nil {
		t.Fatalf("of none: %v", kinds)
	}
	program := func(kind ebpf.ProgramType, at ebpf.AttachType) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "another", Type: kind, AttachType: at, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: w.opts.Cgroup, Attach: ebpf.AttachCGroupSockOps, Program: program(ebpf.SockOps, ebpf.AttachCGroupSockOps)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	program(ebpf.SkMsg, ebpf.AttachSkMsgVerdict)
	if kinds := of(); !slices.Equal(kinds, []string{"sock_ops", "sk_msg"}) {
		t.Errorf("told: %v", kinds)
	}
}
