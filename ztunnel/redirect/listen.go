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

func (l Listeners) inbound() iter.Seq2[meshListenerKind, *net.TCPListener] {
	return func(yield func(meshListenerKind, *net.TCPListener) bool) {
		_ = yield(meshListenerKindLISTENER_PLAINTEXT4, l.Inbound4) &&
			yield(meshListenerKindLISTENER_PLAINTEXT6, l.Inbound6) &&
			yield(meshListenerKindLISTENER_HBONE4, l.HBONE4) &&
			yield(meshListenerKindLISTENER_HBONE6, l.HBONE6)
	}
}

// Listen opens the listeners of a pod that has these addresses. The outbound
// ones listen on the first address of their family, as their connections come
// there. The others listen on loopback: steering ignores the address.
//
// Where IPv6 is off on lo, no IPv6 connection can be steered: the pod gets no
// IPv6 listeners, and its IPv6 connects are refused.
func (d *Datapath) Listen(ctx context.Context, ns *netns.NS, addrs []netip.Addr) (l Listeners, err error) {
	free, six, err := portsOf(ns)
	if err != nil {
		return l, err
	}
	pod := Sandbox{Addrs: addrs}
	type listener struct {
		to **net.TCPListener
		at netip.Addr
	}
	var wanted []listener
	if addr := pod.primary(netip.Addr.Is4); addr.IsValid() {
		lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		wanted = append(wanted, listener{&l.Outbound4, addr}, listener{&l.Inbound4, lo}, listener{&l.HBONE4, lo})
	}
	if addr := pod.primary(netip.Addr.Is6); addr.IsValid() && six {
		lo := netip.IPv6Loopback()
		wanted = append(wanted, listener{&l.Outbound6, addr}, listener{&l.Inbound6, lo}, listener{&l.HBONE6, lo})
	}
	for _, w := range wanted {
		if *w.to, err = listen(ctx, ns, w.at, free); err != nil {
			l.Close()
			return Listeners{}, fmt.Errorf("listen in netns %d: %w", ns.Cookie(), err)
		}
	}
	return l, nil
}

// listen tries ports at random until one is free.
func listen(ctx context.Context, ns *netns.NS, at netip.Addr, free ports) (*net.TCPListener, error) {
	for try := 0; ; try++ {
		ln, err := ns.Listen(ctx, netip.AddrPortFrom(at, free.pick()), freebind(at))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) || try == 100 {
			return ln, err
		}
	}
}

// freebind lets us listen on an IPv6 address that is still tentative, as it
// is when the CNI plugin hands over a pod.
func freebind(at netip.Addr) func(fd int) error {
	return func(fd int) error {
		if at.Is4() {
			return nil
		}
		return os.NewSyscallError("setsockopt(IPV6_FREEBIND)", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	}
}

// ports are both inclusive.
type ports struct{ low, high uint16 }

func (p ports) pick() uint16 { return p.low + uint16(rand.UintN(uint(p.high-p.low)+1)) }

// portsOf returns ports that no app of the pod is given by the kernel. From
// that range, an app could get the very port it is steered to while nobody
// listens, and would be connected to itself.
func portsOf(ns *netns.NS) (free ports, six bool, err error) {
	var low, high uint16
	err = ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
			return fmt.Errorf("read ip_local_port_range: %w", err)
		}
		six = hasIPv6()
		return nil
	})
	if err != nil {
		return free, false, fmt.Errorf("look into netns %d: %w", ns.Cookie(), err)
	}
	return outside(low, high), six, nil
}

// outside prefers the ports above the usual range. A pod that hands out all
// of them has to spare some below; one that spares none, we take our chance.
func outside(low, high uint16) ports {
	switch {
	case high < 65535-100:
		return ports{max(high+1, 61000), 65535}
	case low > 1024+100:
		return ports{1024, low - 1}
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
