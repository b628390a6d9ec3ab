// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// forward gives a pod a device that leads behind it.
func (w *world) forward(uid string) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}, PeerName: "behind"}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		return netlink.LinkSetUp(pair)
	})
}

// upBehind sets the other end of that device up: it comes before docker0.
func (w *world) upBehind(uid string) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		behind, err := netlink.LinkByName("behind")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(behind)
	})
}

// Nobody looks at the pod every 2 s here: its netns itself tells.
func TestAPodThatBeginsToForwardIsGuardedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	pod.mu.Lock() // neither reconcile nor verify gets past this
	unlock := sync.OnceFunc(pod.mu.Unlock)
	defer unlock()
	m := pod.member
	w.forward("web")
	w.eventually("it is guarded", func() bool {
		m.forwarding.mu.Lock()
		defer m.forwarding.mu.Unlock()
		return m.forwarding.guard == guardClosed && slices.Equal(m.forwarding.devices(), []string{"docker0"})
	})
	w.inNetns(w.sandboxes["web"].Netns, func() error {
		docker0, err := netlink.LinkByName("docker0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(docker0)
	})
	w.eventually("the guard has gone", func() bool {
		m.forwarding.mu.Lock()
		defer m.forwarding.mu.Unlock()
		return m.forwarding.guard == guardOpen
	})
	unlock()

	w.forward("web")
	w.label("web", false) // whoever ends the following waits for it
	w.eventually("the pod left", func() bool { return w.connects("web") == released })
}

// obstruct puts a filter of that name where the guard of a device stands. It is of
// another protocol, so that the kernel neither replaces nor removes it for us.
func (w *world) obstruct(uid, device, name string) (end func()) {
	w.t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { program.Close() })
	var filter *netlink.BpfFilter
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		at := netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Handle: 1}
		qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: at.LinkIndex,
			Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
		if err := netlink.QdiscReplace(qdisc); err != nil {
			return err
		}
		ours := &netlink.BpfFilter{FilterAttrs: at}
		ours.Protocol = unix.ETH_P_ALL
		if err := netlink.FilterDel(ours); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		filter = &netlink.BpfFilter{FilterAttrs: at, Fd: program.FD(), Name: name, DirectAction: true}
		filter.Protocol = unix.ETH_P_IP
		return netlink.FilterAdd(filter)
	})
	return func() { w.inNetns(w.sandboxes[uid].Netns, func() error { return netlink.FilterDel(filter) }) }
}

// guarded names the devices of a pod that have the guard.
func (w *world) guarded(uid string) (devices []string) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			filters, _ := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS) // an error: it never had one
			for _, f := range filters {
				if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Name == "culvert_forward" {
					devices = append(devices, link.Attrs().Name)
				}
			}
		}
		return err
	})
	return devices
}

// What the pod opened when it was in the mesh before is still carried: nothing but the
// failed step itself removes the guard.
func TestAGuardThatFailsHalfwayLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	w.open("web")
	w.label("web", false)
	w.eventually("the pod left", func() bool { return w.connects("web") == released })

	w.forward("web")
	w.upBehind("web")
	end := w.obstruct("web", "docker0", "another")
	w.label("web", true)
	w.eventually("enrolment fails, and leaves no guard", func() bool {
		pod.mu.Lock()
		defer pod.mu.Unlock()
		return strings.HasPrefix(pod.failed, "guard forwarding: ") && len(w.guarded("web")) == 0
	})
	end()
	w.eventually("the pod is enrolled", func() bool { return slices.Contains(w.guarded("web"), "docker0") })
	w.want("web", carried)
}

// Whether the label goes while ztunnel is here or not: what cannot be removed is
// removed later.
func TestAGuardThatCannotBeRemovedIsRemovedLater(t *testing.T) {
	for name, away := range map[string]bool{"ztunnel is here": false, "ztunnel was away": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			req := w.pod("web", "10.1.0.1", true)
			w.forward("web")
			w.upBehind("web")
			w.add(req, enroll.Enrolled)
			pod, _ := w.pods.byID("c-web")
			unlock := sync.OnceFunc(pod.mu.Unlock)
			pod.mu.Lock() // so that nobody puts the guard back, nor does a device that is up at last
			defer unlock()
			pod.member.unfollow()
			end := w.obstruct("web", "behind", "culvert_forward")
			if away {
				unlock()
				w.kill()
				w.label("web", false)
				w.start()
			} else {
				w.label("web", false)
				unlock()
			}
			w.eventually("the pod left", func() bool { return w.connects("web") == released })
			pod, _ = w.pods.byID("c-web")
			w.eventually("letGo has tried", func() bool {
				pod.mu.Lock()
				defer pod.mu.Unlock()
				return pod.member == nil && !pod.adopted
			})
			w.pods.leaving.Wait()
			end()
			w.eventually("the guard has gone", func() bool { return len(w.guarded("web")) == 0 })
			w.eventually("the routing has gone", func() bool { return w.unrouted("web") })
		})
	}
}
