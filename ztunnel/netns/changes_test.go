// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

// follow subscribes until the test ends.
func follow(t *testing.T, ns *NS) *Changes {
	t.Helper()
	c, err := ns.Changes()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wait waits for a change, for at most half a minute.
func wait(t *testing.T, c *Changes, what string) {
	t.Helper()
	late := time.AfterFunc(30*time.Second, func() { c.Close() })
	defer late.Stop()
	if err := c.Wait(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestChangesTellsOfDevicesAddressesRulesAndLocalRoutes(t *testing.T) {
	ns := open(t)
	c := follow(t, ns)
	device(t, ns, "eth0")
	wait(t, c, "a device")
	addAddr(t, ns, "eth0", "10.1.2.3/24", 0)
	wait(t, c, "an address")
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table, rule.Priority = unix.AF_INET6, 7, 15008, 100
	inside(t, ns, func() error { return netlink.RuleAdd(rule) })
	wait(t, c, "an IPv6 rule")
	inside(t, ns, func() error { return addLocalRoute("192.0.2.0/24", 15008) })
	wait(t, c, "a local route")
	inside(t, ns, func() error { return changeAddr(netlink.AddrDel, "eth0", "10.1.2.3/24", 0) })
	wait(t, c, "an address that leaves")
}

// A new netns forwards IPv4 where the machine does: the kernel copies the value
// (net.core.devconf_inherit_init_net), and tells nothing if it is written again.
func TestChangesTellsOfForwarding(t *testing.T) {
	for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		ns := open(t)
		set := func(value string) {
			inside(t, ns, func() error { return os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0) })
		}
		set("0")
		c := follow(t, ns)
		for _, value := range []string{"1", "0"} {
			set(value)
			wait(t, c, sysctl+"="+value)
		}
	}
}

func addLocalRoute(to string, table int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: table,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST})
}

// A router changes its own tables all the time.
func TestChangesTellsNothingOfRoutesThatAreNotOurs(t *testing.T) {
	for table, want := range map[byte]bool{unix.RT_TABLE_MAIN: false, 7: false, unix.RT_TABLE_LOCAL: true, unix.RT_TABLE_COMPAT: true} {
		message := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg)
		for _, kind := range []byte{unix.RTM_NEWROUTE, unix.RTM_DELROUTE} {
			message[4], message[unix.SizeofNlMsghdr+4] = kind, table
			if got := matters(message); got != want {
				t.Errorf("message %d of table %d matters: %v", kind, table, got)
			}
		}
	}
}

// A queue that overflowed has lost what changed: it is told as a change.
func TestChangesOutlivesAnOverflow(t *testing.T) {
	ns := open(t)
	device(t, ns, "eth0")
	c, twin := follow(t, ns), follow(t, ns)
	for _, f := range []*Changes{c, twin} {
		f.onFd(t, func(fd int) error { // the kernel makes it its least
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
		})
	}
	inside(t, ns, func() error {
		for i := range 200 {
			if err := changeAddr(netlink.AddrAdd, "eth0", fmt.Sprintf("10.1.%d.1/32", i), 0); err != nil {
				return err
			}
		}
		return nil
	})
	twin.onFd(t, func(fd int) error {
		if _, _, err := unix.Recvfrom(fd, make([]byte, 64), unix.MSG_DONTWAIT); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("the queue did not overflow: %v", err)
		}
		return nil
	})
	wait(t, c, "an overflow")
	addAddr(t, ns, "eth0", "10.2.0.1/32", 0)
	wait(t, c, "an address after it")
}

func (c *Changes) onFd(t *testing.T, f func(fd int) error) {
	t.Helper()
	raw, err := c.sock.SyscallConn()
	if err == nil {
		err = onFd(raw, f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestChangesEndsWhenClosed(t *testing.T) {
	ns := open(t)
	c, err := ns.Changes()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("Wait told of a change")
	}
}

func TestAClosedNamespaceIsNotFollowed(t *testing.T) {
	env.Need(t, env.Netns)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	if _, err := ns.Changes(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Changes: %v", err)
	}
}
