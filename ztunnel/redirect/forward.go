// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// ForwardGuard says at which ports of a pod that forwards plaintext is
// refused before the pod's own NAT may send it to another netns.
type ForwardGuard struct {
	Refuse bool            // at every port that is not in Ports
	Ports  map[uint16]bool // refuse at this port; default none
}

// The filter's place among those that others may have put on a device.
const (
	guardName      = "culvert_forward"
	filterPriority = 1
	guardHandle    = 1
)

// Forwards names the devices of a netns by which it may forward to another:
// those that are up and have none of the pod's own addresses, of a kind that
// leads into another netns or a virtual machine. It returns none where
// forwarding is off.
func Forwards(ns *netns.NS, own []netip.Addr) (behind []string, err error) {
	err = ns.Do(func() error {
		if !sysctlIsOn("net/ipv4/ip_forward") && !sysctlIsOn("net/ipv6/conf/all/forwarding") {
			return nil
		}
		v, err := lookForDevices(own)
		if err != nil {
			return err
		}
		holds := v.holders()
		for _, d := range v.devices {
			if d.leadsBehind() && !holds[d.index] {
				behind = append(behind, d.name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for forwarding in netns %d: %w", ns.Cookie(), err)
	}
	return behind, nil
}

// leadsBehind leaves out what a CNI plugin puts into a pod by itself and what
// leads nowhere: dummies, and the tunnel devices that come with a netns.
func (d device) leadsBehind() bool {
	if d.flags&unix.IFF_UP == 0 {
		return false
	}
	switch d.kind {
	case "bridge", "veth", "tun", "tuntap", "macvtap", "ipvtap", "openvswitch", "netkit":
		return true
	}
	return false
}

func sysctlIsOn(sysctl string) bool {
	text, err := os.ReadFile("/proc/sys/" + sysctl)
	return err == nil && strings.TrimSpace(string(text)) != "0"
}

// GuardForwarding puts g in force for a pod that is steered, and returns the
// devices that are guarded now, by index. Done again, with what it returned, it
// follows what g and the pod's devices are now, and says what another hand had
// removed. Without ztunnel it refuses. It may take as long as the pod has devices,
// and holds up no other pod.
func (d *Datapath) GuardForwarding(ns *netns.NS, g ForwardGuard, before []int) (now []int, wrong string, err error) {
	cookie := uint64(ns.Cookie())
	want := map[meshPodPort]uint8{{Netns: cookie}: refuse(g.Refuse)}
	for port, no := range g.Ports {
		want[meshPodPort{Netns: cookie, Port: wirePort(port)}] = refuse(no)
	}
	for key, value := range want {
		if err := d.mesh.ForwardGuard.Put(key, value); err != nil {
			return before, "", fmt.Errorf("guard forwarding of netns %d: port %d: %w", cookie, wirePort(key.Port), full(d.mesh.ForwardGuard, err))
		}
	}
	if err := sweep(d.mesh.ForwardGuard, func(key meshPodPort, _ *uint8) bool {
		_, wanted := want[key]
		return key.Netns == cookie && !wanted
	}); err != nil {
		return before, "", err
	}
	err = ns.Do(func() (err error) {
		now, wrong, err = addGuards(d.mesh.ForwardIngress, before)
		return err
	})
	if err != nil {
		return before, "", fmt.Errorf("guard forwarding of netns %d: %w", cookie, err)
	}
	if wrong != "" {
		wrong = fmt.Sprintf("guard of netns %d on %s was removed", cookie, wrong)
	}
	return now, wrong, nil
}

func refuse(yes bool) uint8 {
	if yes {
		return 1
	}
	return 0
}

// UnguardForwarding lets the pod forward again. A pod without a guard is no
// error.
func (d *Datapath) UnguardForwarding(ns *netns.NS) error {
	cookie := ns.Cookie()
	err := ns.Do(removeGuards)
	if err != nil {
		return fmt.Errorf("end the guard of netns %d: %w", cookie, err)
	}
	return sweep(d.mesh.ForwardGuard, func(key meshPodPort, _ *uint8) bool { return key.Netns == uint64(cookie) })
}

// addGuards guards every device that is up, except loopback. It returns
// their indices, and the name of one that had lost its guard.
func addGuards(program *ebpf.Program, before []int) (now []int, lost string, err error) {
	v, err := lookForDevices(nil)
	if err != nil {
		return nil, "", err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for all devices
	if err != nil {
		return nil, "", err
	}
	defer h.Close()
	id, err := objectID(program.FD())
	if err != nil {
		return nil, "", err
	}
	for _, d := range v.devices {
		if d.flags&unix.IFF_LOOPBACK != 0 || d.flags&unix.IFF_UP == 0 {
			continue
		}
		now = append(now, d.index)
		if has, err := guardOn(h, d); err == nil && has == int(id) {
			continue
		}
		if err := addGuard(h, d, program); err != nil {
			return nil, "", err
		}
		if slices.Contains(before, d.index) {
			lost = d.name
		}
	}
	return now, lost, nil
}

func addGuard(h *netlink.Handle, d device, program *ebpf.Program) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: d.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s: %w", d.name, err)
	}
	filter := guardFilter(d.index)
	filter.Fd, filter.Name, filter.DirectAction = program.FD(), guardName, true
	if err := h.FilterReplace(filter); err != nil {
		return fmt.Errorf("add filter to %s: %w", d.name, err)
	}
	return nil
}

func guardFilter(link int) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: link, Parent: netlink.HANDLE_MIN_INGRESS,
		Priority: filterPriority, Handle: guardHandle, Protocol: unix.ETH_P_ALL}}
}

// guardOn returns the id of the program that guards a device; 0 if none does.
func guardOn(h *netlink.Handle, d device) (id int, err error) {
	filters, err := h.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, netlink.HANDLE_MIN_INGRESS)
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Name == guardName {
			return bpf.Id, nil
		}
	}
	return 0, err
}

func removeGuards() error {
	v, err := lookForDevices(nil)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, d := range v.devices {
		if id, err := guardOn(h, d); err != nil || id == 0 {
			continue // no clsact either
		}
		if err := h.FilterDel(guardFilter(d.index)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove filter from %s: %w", d.name, err)
		}
	}
	return nil
}
