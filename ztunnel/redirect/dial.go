// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// ErrNoOriginalDst says that a connection was not steered to the listener
// that accepted it, or that its destination was lost. It must be refused.
var ErrNoOriginalDst = errors.New("no original destination")

// OriginalDst returns where the app wanted to go whose connection an outbound
// listener accepted.
func (d *Datapath) OriginalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	dst, err := d.original(conn)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(goAddr(dst.Addr), wirePort(dst.Port)), nil
}

// Bound returns the source address of that connection if the app chose it, by
// bind(). If it did not, the address is invalid: the one that the kernel chose
// on the way to us need not be the one for the original destination.
func (d *Datapath) Bound(conn *net.TCPConn) netip.Addr {
	dst, err := d.original(conn)
	if err != nil || dst.Bound == 0 {
		return netip.Addr{}
	}
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
}

func (d *Datapath) original(conn *net.TCPConn) (meshEndpoint, error) {
	var state meshSockState
	err := withFd(conn, func(fd int) error { return lookup(d.mesh.Sockets, new(int32(fd)), &state) })
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && state.Kind != meshSockKindSOCK_ACCEPTED {
		return meshEndpoint{}, ErrNoOriginalDst
	}
	if err != nil {
		return meshEndpoint{}, fmt.Errorf("original destination of %v: %w", conn.RemoteAddr(), err)
	}
	return state.Dst, nil
}

// stamp marks a socket as ztunnel's own, by descriptor: there is no other way
// past the programs.
func (d *Datapath) stamp(fd int, kind meshSockKind) error {
	if err := put(d.mesh.Sockets, new(int32(fd)), &meshSockState{Kind: kind}); err != nil {
		return fmt.Errorf("stamp socket: %w", err)
	}
	return nil
}

// DialOut returns how ztunnel connects to others from inside a pod's netns:
// unsteered, and from an address if that is one, else from the kernel's choice.
func (d *Datapath) DialOut(ns *netns.NS) func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	return func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		return ns.Dial(ctx, to, func(fd int) error {
			if err := d.stamp(fd, meshSockKindSOCK_ZTUNNEL); err != nil {
				return err
			}
			if !from.IsValid() || from.Is4() != to.Addr().Is4() {
				return nil
			}
			// The port is for connect() to choose: there may be more
			// connections than ports, to several peers.
			if err := socket.SetOption(uintptr(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
				return os.NewSyscallError("setsockopt(IP_BIND_ADDRESS_NO_PORT)", err)
			}
			return bind(fd, netip.AddrPortFrom(from, 0))
		})
	}
}

// DialInner returns how ztunnel connects to the app, under the address of the
// client on whose behalf it does. from is the client's; a port of 0 means that it
// is not known. The leg's own port is another: see innerPorts. Without
// CAP_NET_BIND_SERVICE a client below 1024 is seen above, and counted by Stats.
//
// What sends a leg back to its own sender is a missing entry in the map
// inner: it is written before the connect, and a failed write ends the dial.
func (d *Datapath) DialInner(ns *netns.NS) func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
	return func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
		if from.Addr().Is4() != to.Addr().Is4() {
			return nil, fmt.Errorf("dial %v as %v: address families differ", to, from.Addr())
		}
		if client := from.Port(); client == 0 || client >= 1024 { // nearly always: the first port is free
			conn, err := d.dialInner(ctx, ns, netip.AddrPortFrom(from.Addr(), firstInnerPort(client)), to)
			if err == nil || !isTaken(err) && !isForbidden(err) {
				return conn, err
			}
		}
		return d.dialByAnyPort(ctx, ns, from, to)
	}
}

func (d *Datapath) dialByAnyPort(ctx context.Context, ns *netns.NS, from, to netip.AddrPort) (*net.TCPConn, error) {
	var problem error
	first := uint16(1)
	for port := range innerPorts(from.Port()) {
		if port < first {
			continue
		}
		conn, err := d.dialInner(ctx, ns, netip.AddrPortFrom(from.Addr(), port), to)
		if err == nil || !isTaken(err) && !isForbidden(err) {
			return conn, err
		}
		problem = err
		if isForbidden(err) { // and so are all others below 1024: we would try a thousand
			first = 1024
			d.legs.forbidden.Add(1)
		}
	}
	return nil, fmt.Errorf("no port is free: %w", problem)
}

// isTaken says whether another port may do: EPERM is the program's answer to
// a tuple that is in use by the client itself.
func isTaken(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPERM)
}

// isForbidden knows the kernel's answer to a port below 1024 without
// CAP_NET_BIND_SERVICE.
func isForbidden(err error) bool { return errors.Is(err, unix.EACCES) }

func (d *Datapath) dialInner(ctx context.Context, ns *netns.NS, src, to netip.AddrPort) (*net.TCPConn, error) {
	d.sweepLegs()
	flow := wireFlow(ns.Cookie(), src, to)
	if err := d.legs.begin(flow); err != nil {
		return nil, err
	}
	conn, err := ns.Dial(ctx, to, func(fd int) error { return d.prepareInner(fd, src, flow) })
	if err != nil {
		err = errors.Join(err, del(d.mesh.Inner, flow))
		d.legs.abort(flow) // last: the next to have the flow has an entry of its own
		return nil, err
	}
	d.legs.finish(flow)
	return conn, nil
}

func (d *Datapath) prepareInner(fd int, src netip.AddrPort, flow meshFlow) error {
	if err := d.stamp(fd, meshSockKindSOCK_INNER); err != nil {
		return err
	}
	if err := pose(fd, src); err != nil {
		return err
	}
	if err := put(d.mesh.Inner, &flow, new(monotonic())); err != nil {
		return fmt.Errorf("announce leg from %v: %w", src, full(d.mesh.Inner, err))
	}
	return nil
}

// pose binds a socket to an address that is another's, and marks it so that
// the answers come back: see Route.
func pose(fd int, src netip.AddrPort) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if src.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := socket.SetOption(uintptr(fd), level, option, 1); err != nil {
		return os.NewSyscallError("setsockopt(IP_TRANSPARENT)", err)
	}
	if err := socket.SetOption(uintptr(fd), unix.SOL_SOCKET, unix.SO_MARK, innerMark); err != nil {
		return os.NewSyscallError("setsockopt(SO_MARK)", err)
	}
	// One port serves several legs, if they go to different ports of the pod.
	if err := socket.SetOption(uintptr(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt(SO_REUSEADDR)", err)
	}
	return bind(fd, src)
}

func bind(fd int, at netip.AddrPort) error {
	return os.NewSyscallError("bind", socket.Bind(uintptr(fd), at))
}

// epoch is a moment by both clocks. package time has the monotonic one too, and
// reads it without a system call, but does not say since when.
var epoch = func() (at struct {
	time   time.Time
	kernel uint64
}) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // there is no Linux without it
	}
	at.time, at.kernel = time.Now(), uint64(now.Nano())
	return at
}()

// monotonic returns what bpf_ktime_get_ns() does.
func monotonic() uint64 { return epoch.kernel + uint64(time.Since(epoch.time)) }
