// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Listeners are ztunnel's listeners inside a pod's netns, nil for a family
// that the pod does not have.
type Listeners struct {
	Outbound4, Outbound6 *net.TCPListener // for what the pod opens
	Inbound4, Inbound6   *net.TCPListener // for plaintext that arrives
	HBONE4, HBONE6       *net.TCPListener // for what arrives at port 15008
}

// Close closes all of them. Until then they keep the netns alive.
func (l Listeners) Close() error {
	var problems []error
	for _, ln := range []*net.TCPListener{l.Outbound4, l.Outbound6, l.Inbound4, l.Inbound6, l.HBONE4, l.HBONE6} {
		if ln != nil {
			problems = append(problems, ln.Close())
		}
	}
	return errors.Join(problems...)
}

func (l Listeners) all() iter.Seq2[meshListenerKind, *net.TCPListener] {
	return func(yield func(meshListenerKind, *net.TCPListener) bool) {
		_ = yield(meshListenerKindLISTENER_PLAINTEXT4, l.Inbound4) &&
			yield(meshListenerKindLISTENER_PLAINTEXT6, l.Inbound6) &&
			yield(meshListenerKindLISTENER_HBONE4, l.HBONE4) &&
			yield(meshListenerKindLISTENER_HBONE6, l.HBONE6) &&
			yield(meshListenerKindLISTENER_OUTBOUND4, l.Outbound4) &&
			yield(meshListenerKindLISTENER_OUTBOUND6, l.Outbound6)
	}
}

// Listen opens the listeners of a pod, which must not be where an app may
// listen. Steering finds them wherever they are, so they are at stand-ins, on one
// port: only a listener on all addresses can ask for it. It is HBONE's own, unless
// the pod declares that it listens there, hands it out, or has it taken: then
// another is found.
//
// The listeners are of both families: a pod may get addresses of the other
// later, and lose those that it has for a while.
func (d *Datapath) Listen(ctx context.Context, ns *netns.NS, declared []uint16) (Listeners, error) {
	given, err := portsOf(ns)
	if err != nil {
		return Listeners{}, err
	}
	port := uint16(hbonePort)
	for try := 0; ; try++ {
		if (!given.has(port) || try > 0) && !slices.Contains(declared, port) {
			l, err := d.listenAt(ctx, ns, port)
			if err == nil || !errors.Is(err, unix.EADDRINUSE) {
				return l, err
			}
		}
		if try == 100 {
			return Listeners{}, fmt.Errorf("listen in netns %d: no port is free: %w", ns.Cookie(), unix.EADDRINUSE)
		}
		port = given.outside().pick()
	}
}

// listenAt opens all listeners, or none.
func (d *Datapath) listenAt(ctx context.Context, ns *netns.NS, port uint16) (l Listeners, err error) {
	for _, w := range []struct {
		to     **net.TCPListener
		family int
		host   byte
	}{
		{&l.Outbound4, unix.AF_INET, 1}, {&l.Inbound4, unix.AF_INET, 2}, {&l.HBONE4, unix.AF_INET, 3},
		{&l.Outbound6, unix.AF_INET6, 1}, {&l.Inbound6, unix.AF_INET6, 2}, {&l.HBONE6, unix.AF_INET6, 3},
	} {
		at := netip.AddrPortFrom(nth(d.standIn(w.family), w.host), port)
		*w.to, err = ns.Listen(ctx, at, freebind(at.Addr()))
		if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
			continue
		}
		if err != nil {
			l.Close()
			return Listeners{}, fmt.Errorf("listen in netns %d: %w", ns.Cookie(), err)
		}
	}
	return l, nil
}

// freebind lets us listen on an address that is not local yet.
func freebind(at netip.Addr) func(fd int) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if at.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	return func(fd int) error {
		return os.NewSyscallError("setsockopt(IP_FREEBIND)", unix.SetsockoptInt(fd, level, option, 1))
	}
}

// ports are both inclusive.
type ports struct{ low, high uint16 }

func (p ports) has(port uint16) bool { return p.low <= port && port <= p.high }

func (p ports) pick() uint16 { return p.low + uint16(rand.UintN(uint(p.high-p.low)+1)) }

// portsOf returns the ports that apps of the pod are given by the kernel: it
// could give our own to one while nobody listens there.
func portsOf(ns *netns.NS) (given ports, err error) {
	err = ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(text), &given.low, &given.high); err != nil {
			return fmt.Errorf("read ip_local_port_range: %w", err)
		}
		return nil
	})
	if err != nil {
		return given, fmt.Errorf("look into netns %d: %w", ns.Cookie(), err)
	}
	return given, nil
}

// outside prefers the ports above those that are given. A pod that gives all of
// them has to spare some below; one that spares none, we take our chance.
func (p ports) outside() ports {
	switch {
	case p.high < 65535-100:
		return ports{max(p.high+1, 61000), 65535}
	case p.low > 1024+100:
		return ports{1024, p.low - 1}
	default:
		return ports{61000, 65535}
	}
}

// hasIPv6 says whether the thread's netns has IPv6 on loopback.
func hasIPv6() bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err == nil && strings.TrimSpace(string(text)) == "0"
}

// withFd calls f with the descriptor of a socket.
func withFd(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if failed := raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}
