// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Changes tells that a namespace's devices, addresses, rules or routes changed, or
// whether it forwards.
// It is one socket, which waits in the netpoller. The socket lives in the
// namespace and keeps it alive: Close it with the NS.
type Changes struct{ sock *os.File }

// groups are the multicast groups of what is told. The kernel sends each as the
// bit of its number less one.
const groups = 1<<(unix.RTNLGRP_LINK-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1) |
	1<<(unix.RTNLGRP_IPV4_NETCONF-1) | 1<<(unix.RTNLGRP_IPV6_NETCONF-1)

// Changes subscribes. What changes from now on is told: look at the namespace
// after this, not before.
func (ns *NS) Changes() (*Changes, error) {
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return os.NewSyscallError("socket(AF_NETLINK)", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			unix.Close(fd)
			return os.NewSyscallError("bind(AF_NETLINK)", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("follow netns %d: %w", ns.cookie, err)
	}
	return &Changes{os.NewFile(uintptr(fd), "netlink")}, nil
}

// Wait returns nil when something changed since the last call, or since the
// subscription, and an error after Close. It does not say what: a socket whose
// queue overflowed would not know.
func (c *Changes) Wait() error {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		var changed bool
		changed, failed = drain(int(fd))
		return changed || failed != nil
	})
	if err != nil {
		return err
	}
	return failed
}

// drain takes what is queued and reports whether any of it matters.
func drain(fd int) (changed bool, err error) {
	var head [64]byte // of a message; the rest is of no interest
	for {
		n, _, err := unix.Recvfrom(fd, head[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return changed, nil
		case errors.Is(err, unix.ENOBUFS): // what was lost may have mattered
			changed = true
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return changed, os.NewSyscallError("recvfrom(AF_NETLINK)", err)
		default:
			changed = changed || matters(head[:n])
		}
	}
}

// matters leaves out the routes of tables that are none of ours: a pod that is a
// router changes them all the time. Ours are in the local table and in one above
// 255, which the header has as RT_TABLE_COMPAT.
func matters(message []byte) bool {
	if len(message) < unix.SizeofNlMsghdr+unix.SizeofRtMsg {
		return true
	}
	switch binary.NativeEndian.Uint16(message[4:]) { // nlmsghdr.nlmsg_type
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		table := message[unix.SizeofNlMsghdr+4] // rtmsg.rtm_table
		return table == unix.RT_TABLE_COMPAT || table == unix.RT_TABLE_LOCAL
	}
	return true
}

// Close ends a Wait, and the subscription.
func (c *Changes) Close() error { return c.sock.Close() }
