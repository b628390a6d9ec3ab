// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

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
		return m.forwarding.guard == guardClosed && slices.Equal(m.forwarding.behind, []string{"docker0"})
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
