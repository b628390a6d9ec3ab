// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// ErrUnsupported says that the kernel lacks something steering needs. The
// error that wraps it names what, and since when Linux has it.
var ErrUnsupported = errors.New("not supported by this kernel")

// feature is something of the kernel, and how to find out.
type feature struct {
	name, since string
	have        func() error
}

// probe tries the features one by one: distributions backport, so a version
// number says nothing.
func probe() error {
	return firstMissing([]feature{
		{"BPF socket storage", "5.2", mapType(ebpf.SkStorage)},
		{"BPF LRU hash maps", "4.10", mapType(ebpf.LRUHash)},
		{"BPF LPM trie maps", "4.11", mapType(ebpf.LPMTrie)},
		{"BPF socket hash maps (CONFIG_NET_SOCK_MSG)", "4.18", mapType(ebpf.SockHash)},
		{"netns cookies in connect hooks", "5.7", helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
		{"socket storage in connect hooks", "5.3", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"socket lookup in connect hooks", "4.20", helper(ebpf.CGroupSockAddr, asm.FnSkLookupTcp)},
		{"cgroup ids in connect hooks", "5.7", helper(ebpf.CGroupSockAddr, asm.FnGetCurrentCgroupId)},
		{"coarse clock in socket operations", "5.11", helper(ebpf.SockOps, asm.FnKtimeGetCoarseNs)},
		{"netns cookies in sockops", "5.15", helper(ebpf.SockOps, asm.FnGetNetnsCookie)},
		{"socket storage in sockops", "5.2", helper(ebpf.SockOps, asm.FnSkStorageGet)},
		{"sk_lookup programs", "5.9", helper(ebpf.SkLookup, asm.FnSkAssign)},
	})
}

func firstMissing(list []feature) error {
	for _, f := range list {
		switch err := f.have(); {
		case errors.Is(err, ebpf.ErrNotSupported):
			return fmt.Errorf("%s, in Linux since %s: %w", f.name, f.since, ErrUnsupported)
		case err != nil:
			return fmt.Errorf("probe %s: %w", f.name, err)
		}
	}
	return nil
}

func mapType(t ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(t) }
}

func helper(t ebpf.ProgramType, fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, fn) }
}
