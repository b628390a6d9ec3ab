// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// namespace is a network namespace with a name, as ip-netns(8) makes them.
type namespace struct {
	path    string
	fd      *os.File
	nl      *netlink.Handle
	sockets *netns.NS
}

// thread is the one OS thread that enters namespaces. Processes start from it,
// so that PDEATHSIG, which goes by thread, means the death of this process.
type thread struct {
	work chan func()
	quit chan struct{}
	home *os.File // the netns it belongs to
}

func startThread() (*thread, error) {
	t := &thread{work: make(chan func()), quit: make(chan struct{})}
	ready := make(chan error)
	go t.run(ready)
	return t, <-ready
}

func (t *thread) run(ready chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	t.home, err = os.Open("/proc/thread-self/ns/net")
	ready <- err
	if err != nil {
		return
	}
	defer t.home.Close()
	for {
		select {
		case f := <-t.work:
			f()
		case <-t.quit:
			return
		}
	}
}

// in runs f on the thread, inside ns. f must be short: all wait for it.
func (t *thread) in(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	work := func() {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter netns %s: %w", ns.Name(), err)
			return
		}
		err := f()
		if herr := unix.Setns(int(t.home.Fd()), unix.CLONE_NEWNET); herr != nil {
			panic("lab: the thread cannot return to its netns: " + herr.Error())
		}
		done <- err
	}
	select {
	case t.work <- work:
		return <-done
	case <-t.quit:
		return errors.New("the lab is closed")
	}
}

// newNamespace makes a netns with lo up, without DAD.
func (l *Lab) newNamespace(name string) (*namespace, error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return nil, err
	}
	ns := &namespace{path: filepath.Join(netnsDir, l.run.netnsName(name))}
	f, err := os.OpenFile(ns.path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make netns %s: %w", name, err)
	}
	f.Close()
	// in returns to the home netns, so that the new one is not lost on a thread.
	err = l.thread.in(l.thread.home, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", ns.path, "", unix.MS_BIND, "")
	})
	if err == nil {
		err = ns.open()
	}
	if err == nil {
		err = l.prepareNamespace(ns)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make netns %s: %w", name, err), ns.remove())
	}
	l.spaces.Store(ns, true)
	return ns, nil
}

// dropNamespace removes a netns before its lab ends.
func (l *Lab) dropNamespace(ns *namespace) error {
	l.spaces.Delete(ns)
	return ns.remove()
}

func (ns *namespace) open() (err error) {
	if ns.fd, err = os.Open(ns.path); err != nil {
		return err
	}
	if ns.nl, err = netlink.NewHandleAt(vnetns.NsHandle(ns.fd.Fd())); err != nil {
		return err
	}
	ns.sockets, err = netns.Open(ns.path)
	return err
}

func (ns *namespace) close() {
	if ns.nl != nil {
		ns.nl.Close()
	}
	if ns.fd != nil {
		ns.fd.Close()
	}
	if ns.sockets != nil {
		ns.sockets.Close()
	}
}

func (ns *namespace) remove() error {
	ns.close()
	err := unix.Unmount(ns.path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if rerr := os.Remove(ns.path); !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// sysctls of every netns of a lab, and of those that forward. Without
// accept_dad=0 an IPv6 address is not usable for a second. Forwarding and the strict
// rp_filter are what a pod inherits from many a node.
var sysctls = map[string]string{
	"ipv4/ip_forward":              "1",
	"ipv4/conf/all/rp_filter":      "1",
	"ipv4/conf/default/rp_filter":  "1",
	"ipv6/conf/all/accept_dad":     "0",
	"ipv6/conf/default/accept_dad": "0",
}

var forwarding = map[string]string{
	"ipv4/ip_forward":          "1",
	"ipv6/conf/all/forwarding": "1",
}

// sysctl sets what it names below net in ns.
func (l *Lab) sysctl(ns *namespace, values map[string]string) error {
	return l.thread.in(ns.fd, func() error {
		for name, value := range values {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return fmt.Errorf("sysctl net.%s=%s: %w", strings.ReplaceAll(name, "/", "."), value, err)
			}
		}
		return nil
	})
}

// congestion sets cubic: bbr, which hosts may have as the default, measures its
// own pacing timers on a veth. Where init's tcp_allowed_congestion_control
// withholds cubic from other netns it is reno, which never is.
func (l *Lab) congestion(ns *namespace) error {
	for _, name := range []string{"cubic", "reno"} {
		err := l.sysctl(ns, map[string]string{"ipv4/tcp_congestion_control": name})
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return errors.New("neither cubic nor reno is available")
}

// routeCongestion has what the netns connects and accepts by IPv4 use a
// congestion control that it may not have as its default: a route can name any
// that the kernel has. It counts for the routes of now.
func (ns *namespace) routeCongestion(name string) error {
	routes, err := ns.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL {
			continue
		}
		r.Congctl = name
		if err := ns.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("route %v with congestion control %s: %w", r, name, err)
		}
	}
	return nil
}

func (l *Lab) prepareNamespace(ns *namespace) error {
	if err := l.sysctl(ns, sysctls); err != nil {
		return err
	}
	if err := l.congestion(ns); err != nil {
		return err
	}
	lo, err := ns.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return ns.nl.LinkSetUp(lo)
}

// address gives device an address of a subnet.
func (ns *namespace) address(device string, addr netip.Prefix) error {
	link, err := ns.nl.LinkByName(device)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := ns.nl.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add address %v to %s: %w", addr, device, err)
	}
	return nil
}

func (ns *namespace) route(to netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}
	if err := ns.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("route %v via %v: %w", to, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
