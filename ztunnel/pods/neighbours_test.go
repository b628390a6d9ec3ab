// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// destination is what the registry says of a pod's address.
func (w *world) destination(uid string) workload.Destination {
	w.t.Helper()
	peer, ok := w.registry.ByUID(uid)
	if !ok {
		w.t.Fatalf("no pod %s", uid)
	}
	return workload.Destination{Peer: &peer, Target: netip.AddrPortFrom(peer.Addrs[0], 80)}
}

func (w *world) wantNeighbour(uid string, want bool) {
	w.t.Helper()
	if want { // the kernel's word on it may have grown old on a slow machine
		w.eventually(uid+" is a neighbour", func() bool {
			m := w.pods.neighbours.find(w.destination(uid))
			return m != nil && m.PodUID == uid
		})
	} else if m := w.pods.neighbours.find(w.destination(uid)); m != nil {
		w.t.Errorf("neighbour at the address of %s: %v", uid, m)
	}
}

func TestANeighbourIsWhomTheKernelSteers(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.add(w.pod("plain", "10.1.0.2", false), enroll.Ignore)
	w.wantNeighbour("web", true)
	w.wantNeighbour("plain", false)

	w.label("web", false)
	w.eventually("it leaves", func() bool { return w.connects("web") == released })
	w.wantNeighbour("web", false)
	w.label("web", true)
	w.eventually("it comes back", func() bool { return w.connects("web") == carried })
	w.eventually("and is known", func() bool { return w.pods.neighbours.find(w.destination("web")) != nil })
}

// The registry may call it on this node all it likes.
func TestANeighbourIsNotWhomTheRegistryPlacesHere(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.pod("ghost", "10.1.0.3", true)
	w.wantNeighbour("ghost", false)
}

// Addresses are reused, and the registry may be ahead of us or behind.
func TestANeighbourIsTheSandboxThatHoldsTheAddressNow(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("old", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	old := w.destination("old")
	pod, _ := w.pods.byID("c-old")
	former := pod.member
	if err := w.pods.Del(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	w.wantNeighbour("old", false)

	w.workloads = nil
	w.add(w.pod("heir", "10.1.0.1", true), enroll.Enrolled)
	w.wantNeighbour("heir", true)
	if m := w.pods.neighbours.find(old); m != nil {
		t.Errorf("the address of a pod that is gone leads to %v", m)
	}
	w.pods.neighbours.remove(former) // late
	w.wantNeighbour("heir", true)

	impostor := w.destination("heir")
	impostor.Peer.ID = old.Peer.ID
	if m := w.pods.neighbours.find(impostor); m != nil {
		t.Errorf("another identity than expected is reached at %v", m)
	}
}

// Until the kernel confirms a pod again, only tunnels lead to it.
func TestANeighbourThatIsNotConfirmedNeedsATunnel(t *testing.T) {
	w := newWorld(t)
	w.load() // and nobody looks after it meanwhile
	w.pods.base = t.Context()
	close(w.pods.loaded)
	req := w.pod("web", "10.1.0.1", true)
	w.process("web")
	w.add(req, enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	for _, shared := range []error{errors.New("a hook is missing"), nil} {
		if err := w.pods.confirm(pod, shared, processes); !errors.Is(err, shared) {
			t.Errorf("confirmed: %v, want %v", err, shared)
		}
		w.wantNeighbour("web", shared == nil)
	}
	w.forget(pod)
}
