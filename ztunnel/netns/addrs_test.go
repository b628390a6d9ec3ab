// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device makes a device in the namespace, whose other end is there too.
func device(t *testing.T, ns *NS, name string) {
	t.Helper()
	inside(t, ns, func() error {
		other := name + "-peer"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: other}); err != nil {
			return err
		}
		for _, end := range []string{name, other} {
			l, err := netlink.LinkByName(end)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	})
}

func inside(t *testing.T, ns *NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func addAddr(t *testing.T, ns *NS, dev, prefix string, flags int) {
	t.Helper()
	inside(t, ns, func() error { return changeAddr(netlink.AddrAdd, dev, prefix, flags) })
}

func changeAddr(change func(netlink.Link, *netlink.Addr) error, dev, prefix string, flags int) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	p := netip.MustParsePrefix(prefix)
	ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	return change(l, &netlink.Addr{IPNet: ip, Flags: flags})
}

func wantAddrs(t *testing.T, ns *NS, settled, tentative []string) {
	t.Helper()
	gotSettled, gotTentative, err := ns.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct {
		name string
		got  []netip.Addr
		want []string
	}{{"settled", gotSettled, settled}, {"tentative", gotTentative, tentative}} {
		var got []string
		for _, a := range list.got {
			got = append(got, a.String())
		}
		if !slices.Equal(got, list.want) {
			t.Errorf("%s addresses are %q, want %q", list.name, got, list.want)
		}
	}
}

func TestAddrsAreThoseThatOthersCanReach(t *testing.T) {
	ns := open(t)
	wantAddrs(t, ns, nil, nil) // with loopback only
	device(t, ns, "eth0")      // has a link-local address
	addAddr(t, ns, "lo", "10.9.9.9/32", 0)
	addAddr(t, ns, "eth0", "10.1.2.3/24", 0)
	addAddr(t, ns, "eth0", "169.254.3.4/16", 0)
	addAddr(t, ns, "eth0", "fd00::3/64", unix.IFA_F_NODAD)
	device(t, ns, "net1")
	addAddr(t, ns, "net1", "10.1.2.3/32", 0) // again
	wantAddrs(t, ns, []string{"10.9.9.9", "10.1.2.3", "fd00::3"}, nil)
}

func TestAnAddressIsTentativeUntilNobodyElseHasIt(t *testing.T) {
	ns := open(t)
	device(t, ns, "eth0")
	changes := follow(t, ns)
	addAddr(t, ns, "eth0", "fd00::3/64", 0)
	for {
		settled, tentative, err := ns.Addrs()
		if err != nil || len(settled)+len(tentative) != 1 {
			t.Fatalf("addresses %v and %v, %v", settled, tentative, err)
		}
		if len(settled) == 1 {
			return
		}
		if err := changes.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddrsHaveNoneOfAFamilyThatIsOffOnLoopback(t *testing.T) {
	ns := open(t)
	device(t, ns, "eth0")
	addAddr(t, ns, "eth0", "10.1.2.3/24", 0)
	addAddr(t, ns, "eth0", "fd00::3/64", unix.IFA_F_NODAD)
	for value, want := range map[string][]string{"1": {"10.1.2.3"}, "0": {"10.1.2.3", "fd00::3"}} {
		inside(t, ns, func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte(value), 0)
		})
		wantAddrs(t, ns, want, nil)
	}
}

func TestWhatAnotherMachineHasIsNoAddressOfOurs(t *testing.T) {
	lo := DeviceAddr{Addr: netip.IPv6Loopback()}
	a := DeviceAddr{Addr: netip.MustParseAddr("fd00::3")}
	for _, tc := range []struct {
		flags              uint32
		settled, tentative int
	}{
		{unix.IFA_F_PERMANENT, 1, 0},
		{unix.IFA_F_TENTATIVE, 0, 1},
		{unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC, 1, 0},
		{unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED, 0, 0},
		{unix.IFA_F_DADFAILED, 0, 0},
	} {
		a.Flags = tc.flags
		settled, tentative := sortOut([]DeviceAddr{lo, a})
		if len(settled) != tc.settled || len(tentative) != tc.tentative {
			t.Errorf("flags %#x: settled %v, tentative %v", tc.flags, settled, tentative)
		}
	}
}

// Linux gives a device ::ffff:10.1.2.3 as an IPv6 address, but 10.1.2.3 is not
// delivered there: whoever took it for the namespace's own would let it out.
func TestAnIPv4AddressInIPv6FormIsNoAddressOfOurs(t *testing.T) {
	lo := DeviceAddr{Addr: netip.IPv6Loopback()}
	if settled, tentative := sortOut([]DeviceAddr{lo, {Addr: netip.MustParseAddr("::ffff:10.1.2.3")}}); len(settled)+len(tentative) > 0 {
		t.Errorf("settled %v, tentative %v", settled, tentative)
	}
}

// A pod that may configure devices gives itself as many addresses as it likes.
func TestANamespaceWithTooManyAddressesIsNotReadToItsEnd(t *testing.T) {
	ns := open(t)
	inside(t, ns, func() error { return addManyAddrs(maxListed + 1) })
	settled, _, err := ns.Addrs()
	if err == nil || !strings.Contains(err.Error(), "more than 32768 addresses") {
		t.Errorf("%d addresses, %v", len(settled), err)
	}
}

// addManyAddrs spreads n addresses over devices: adding to one takes the longer, the
// more it has.
func addManyAddrs(n int) error {
	const each = 1024
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	var l netlink.Link
	for i := range n {
		if i%each == 0 {
			name := fmt.Sprint("veth", i/each)
			if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}); err != nil {
				return err
			}
			if l, err = h.LinkByName(name); err != nil {
				return err
			}
		}
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(ip.AsSlice())}); err != nil {
			return err
		}
	}
	return nil
}
