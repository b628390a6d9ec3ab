// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// openDevice makes a TUN device in ns with these addresses, on which all of
// ns' packets to the other node leave.
func openDevice(ns *netns.NS, addrs []netip.Prefix) (tun *os.File, err error) {
	err = ns.Do(func() error {
		if tun, err = openTUN("node0"); err != nil {
			return err
		}
		commands := []string{"link set lo up", "link set node0 mtu 1500 up"}
		for _, a := range addrs {
			commands = append(commands, fmt.Sprintf("addr add %v dev node0%s", a, without(a.Addr())))
		}
		for _, c := range commands {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %v: %s", c, err, out)
			}
		}
		return nil
	})
	if err != nil && tun != nil {
		tun.Close()
	}
	return tun, err
}

// without is the option that has an IPv6 address valid at once.
func without(a netip.Addr) string {
	if a.Is6() {
		return " nodad"
	}
	return ""
}

func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
