// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// hbonePort is HBONE_PORT of bpf/mesh.h, and of the protocol.
const hbonePort = 15008

const (
	// innerMark is on the packets of ztunnel's legs to the app, in both
	// directions: nothing but the way back to ztunnel depends on it.
	innerMark = 0x0c01ef7
	// routeTable and rulePriority (before main, which has 32766) are the
	// pod's own: they are in no one's way.
	routeTable   = hbonePort
	rulePriority = 32764
)

// Route makes the answers to ztunnel's legs to the app come back to ztunnel,
// although they are addressed to the client that ztunnel poses as. It comes
// before SteerInbound: without fwmark_reflect, a refused port would look like
// a timeout.
func (d *Datapath) Route(ns *netns.NS) error {
	err := ns.Do(func() error {
		if err := refuseAcceptLocal(); err != nil {
			return err
		}
		if err := setSysctls(); err != nil {
			return err
		}
		return eachFamily(addRoute)
	})
	if err != nil {
		return fmt.Errorf("route in netns %d: %w", ns.Cookie(), err)
	}
	return nil
}

// Unroute undoes Route, but for the sysctls. Connections that ztunnel carries
// to the app end by it, so it comes after they did.
func (d *Datapath) Unroute(ns *netns.NS) error {
	err := ns.Do(func() error { return eachFamily(removeRoute) })
	if err != nil {
		return fmt.Errorf("unroute in netns %d: %w", ns.Cookie(), err)
	}
	return nil
}

// refuseAcceptLocal checks what inbound steering relies on: that no packet
// from the wire claims to come from the pod itself.
func refuseAcceptLocal() error {
	paths, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/accept_local")
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a device may go
			return err
		}
		if err == nil && strings.TrimSpace(string(text)) != "0" {
			return fmt.Errorf("%s is set: packets could arrive under the pod's own address; set it to 0", strings.TrimPrefix(path, "/proc/sys/"))
		}
	}
	return nil
}

func setSysctls() error {
	for _, s := range []struct {
		path     string
		optional bool
	}{
		{"net/ipv4/tcp_fwmark_accept", false}, // the app's socket answers with our mark
		{"net/ipv4/fwmark_reflect", false},    // and so does a port without one
		{"net/ipv6/fwmark_reflect", !hasIPv6()},
		{"net/ipv4/tcp_migrate_req", true}, // since Linux 5.14
	} {
		err := os.WriteFile("/proc/sys/"+s.path, []byte("1"), 0)
		if err != nil && (!s.optional || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("set %s: %w", s.path, err)
		}
	}
	return nil
}

func eachFamily(f func(family int) error) error {
	if err := f(unix.AF_INET); err != nil {
		return fmt.Errorf("IPv4: %w", err)
	}
	if !hasIPv6() {
		return nil
	}
	if err := f(unix.AF_INET6); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	return nil
}

func innerRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = family
	rule.Mark = innerMark
	rule.Table = routeTable
	rule.Priority = rulePriority
	return rule
}

// innerRoute makes every destination local.
func innerRoute(family int) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       all,
		Table:     routeTable,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Family:    family,
	}, nil
}

func addRoute(family int) error {
	route, err := innerRoute(family)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add local route: %w", err)
	}
	if err := netlink.RuleAdd(innerRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule: %w", err)
	}
	return nil
}

func removeRoute(family int) error {
	if err := netlink.RuleDel(innerRule(family)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove rule: %w", err)
	}
	route, err := innerRoute(family)
	if err != nil {
		return err
	}
	// Without the route: ESRCH; without the table, IPv6 says ENOENT.
	if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove local route: %w", err)
	}
	return nil
}
