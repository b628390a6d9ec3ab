// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"net/netip"
	"testing"
)

// Thousands of connections to few peers keep those peers, not a copy each.
func TestWhoeverLooksAPeerUpHasTheSameWorkload(t *testing.T) {
	r := registry(t, Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1"), pod("db", "ub", "10.1.0.2"))})
	dst := ap("10.1.0.2:5432")
	first := resolve(t, r, "10.1.0.2:5432").Peer
	if first.Name != "db" || r.SharedByUID(first.UID) != first || r.SharedByAddr(dst.Addr()) != first {
		t.Errorf("%v, by UID %p, by address %p, by destination %p", first, r.SharedByUID(first.UID), r.SharedByAddr(dst.Addr()), first)
	}
	if w := r.SharedByUID("nobody's"); w != nil {
		t.Errorf("%v", w)
	}
	if n := testing.AllocsPerRun(100, func() { r.Resolve(addr("10.1.0.1"), dst) }); n > 0 {
		t.Errorf("a connection to a known peer allocates %v objects to find it", n)
	}

	r.Replace(Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1"), pod("db", "ub", "10.1.0.3"))})
	if now := r.SharedByUID(first.UID); now.Addrs[0] != addr("10.1.0.3") || first.Addrs[0] != addr("10.1.0.2") {
		t.Errorf("now at %v, and was at %v", now.Addrs, first.Addrs)
	}
}

func TestSharedWorkloadsAreBounded(t *testing.T) {
	var many []Workload
	for i := range sharedMost + 100 {
		many = append(many, pod(fmt.Sprint("w", i), fmt.Sprint("u", i), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()))
	}
	r := registry(t, Mesh{Workloads: Pack(many...)})
	for _, w := range many {
		if got := r.SharedByUID(w.UID); got.Name != w.Name {
			t.Fatalf("%v for %v", got, w)
		}
	}
	if n := r.index.Load().shared.size.Load(); n != sharedMost {
		t.Errorf("%d are kept", n)
	}
}
