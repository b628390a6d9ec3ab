// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// The rows. Each is a pod of its own, of the same kind.
const (
	plain      = "plain"      // no program attached to its cgroup
	unenrolled = "unenrolled" // programs attached, pod not enrolled
	steered    = "steered"    // enrolled
	nft        = "nft"        // as plain, redirected by nftables
)

// Where steered and redirected connections want to go: nobody is there.
var far = map[string]netip.AddrPort{
	"tcp4": netip.MustParseAddrPort("203.0.113.7:80"),
	"tcp6": netip.MustParseAddrPort("[2001:db8:7::7]:80"),
}

// families in the order of the tables.
var families = []string{"tcp4", "tcp6"}

// pod is the place of a row, as seen from inside.
type pod struct {
	ns     *netns.NS
	addrs  map[string]netip.Addr // by family
	bpffs  string                // of its node
	cgroup string                // of its node
}

// setUp returns the course of each family and what undoes it.
func (p pod) setUp(ctx context.Context, row string) (courses map[string]course, undo func() error, err error) {
	switch row {
	case plain, unenrolled:
		courses, err = p.direct(ctx, p.addrs)
		return courses, func() error { return nil }, err
	case nft:
		return p.redirected(ctx)
	case steered:
		return p.steered(ctx)
	}
	return nil, nil, fmt.Errorf("no such row %q", row)
}

// direct listens on the addresses and connects to them.
func (p pod) direct(ctx context.Context, at map[string]netip.Addr) (map[string]course, error) {
	courses := make(map[string]course)
	for _, family := range families {
		ln, err := p.ns.Listen(ctx, netip.AddrPortFrom(at[family], 0), nil)
		if err != nil {
			return nil, err
		}
		to := ln.Addr().(*net.TCPAddr).AddrPort()
		fd, err := detach(ln)
		if err != nil {
			return nil, err
		}
		courses[family] = course{fd, to}
	}
	return courses, nil
}

// redirected has nftables send what leaves the pod to a listener on loopback,
// which is where REDIRECT leads.
func (p pod) redirected(ctx context.Context) (map[string]course, func() error, error) {
	courses, err := p.direct(ctx, map[string]netip.Addr{
		"tcp4": netip.AddrFrom4([4]byte{127, 0, 0, 1}), "tcp6": netip.IPv6Loopback(),
	})
	if err != nil {
		return nil, nil, err
	}
	var rules strings.Builder
	for family, table := range map[string]string{"tcp4": "ip", "tcp6": "ip6"} {
		fmt.Fprintf(&rules, `
table %s culvert_bench {
	chain output {
		type nat hook output priority -100; policy accept;
		%[1]s daddr %v tcp dport %d redirect to :%d
	}
}
`, table, far[family].Addr(), far[family].Port(), courses[family].to.Port())
		courses[family] = course{courses[family].listener, far[family]}
	}
	if err := runNft(ctx, rules.String()); err != nil {
		return nil, nil, err
	}
	// The rules end with the netns.
	return courses, func() error { return nil }, nil
}

func runNft(ctx context.Context, rules string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// steered loads the programs and enrolls the pod as ztunnel does. It listens
// below the cgroup of the programs, which ztunnel does too: else they would
// not see its end of a connection.
func (p pod) steered(ctx context.Context) (_ map[string]course, _ func() error, err error) {
	d, err := redirect.Load(redirect.Options{BPFFS: p.bpffs, Cgroup: p.cgroup})
	if err != nil {
		return nil, nil, err
	}
	undo := func() error { return errors.Join(d.Unpin(), d.Close()) }
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	addrs := []netip.Addr{p.addrs["tcp4"], p.addrs["tcp6"]}
	listeners, err := d.Listen(ctx, p.ns, nil)
	if err != nil {
		return nil, nil, err
	}
	s := redirect.Sandbox{NS: p.ns, Addrs: addrs, Listeners: listeners}
	for _, step := range []func() error{
		func() error { return d.Route(p.ns, addrs) },
		func() error { return d.SteerInbound(s) },
		func() error { return d.SteerOutbound(s) },
	} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	courses := make(map[string]course)
	for family, ln := range map[string]*net.TCPListener{"tcp4": listeners.Outbound4, "tcp6": listeners.Outbound6} {
		if ln == nil {
			return nil, nil, fmt.Errorf("the pod has no %s", family)
		}
		if err := proveSteered(ctx, d, p.ns, ln, far[family]); err != nil {
			return nil, nil, err
		}
		fd, err := detach(ln)
		if err != nil {
			return nil, nil, err
		}
		courses[family] = course{fd, far[family]}
	}
	return courses, undo, nil
}

// proveSteered opens one connection and asks where it was going: what is
// measured must be the whole of steering.
func proveSteered(ctx context.Context, d *redirect.Datapath, ns *netns.NS, ln *net.TCPListener, to netip.AddrPort) error {
	app, err := ns.Dial(ctx, to, nil)
	if err != nil {
		return err
	}
	defer app.Close()
	conn, err := ln.AcceptTCP()
	if err != nil {
		return err
	}
	defer conn.Close()
	dst, err := d.OriginalDst(conn)
	if err != nil {
		return err
	}
	if dst != to {
		return fmt.Errorf("original destination of a connection to %v is %v", to, dst)
	}
	return nil
}

// detach takes the socket of a listener away from Go: as a blocking descriptor
// that no poller watches.
func detach(ln *net.TCPListener) (fd int, err error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return -1, err
	}
	if failed := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); failed != nil {
		return -1, failed
	}
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.SetNonblock(fd, false), ln.Close())
}
