// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Place is where processes run: a netns and a cgroup, which is all that
// steering asks about. Connections are opened by an agent in the place.
type Place struct {
	Netns  string // path
	Cgroup string // directory

	name string // of its logs
	lab  *Lab
	ns   *namespace

	mu     sync.Mutex // guards what follows
	client *agent.Client
	proc   *Process
}

// newPlace makes the cgroup, named by elements below the run's, for ns.
func (l *Lab) newPlace(name string, ns *namespace, cgroup ...string) (*Place, error) {
	dir := filepath.Join(append([]string{l.run.cgroup}, cgroup...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cgroup of %s: %w", name, err)
	}
	return &Place{name: name, Netns: ns.path, Cgroup: dir, lab: l, ns: ns}, nil
}

// Agent is the place's agent, started by the first call, or anew if it died.
func (p *Place) Agent() (*agent.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc != nil && p.proc.Running() {
		return p.client, nil
	}
	cmd := exec.Command(p.lab.program("app"), "agent")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	proc, err := p.lab.startLogged(p, p.name+"-agent", cmd)
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	p.proc, p.client = proc, agent.NewClient(out, in)
	return p.client, nil
}

// Dial connects from the place.
func (p *Place) Dial(ctx context.Context, network string, to netip.AddrPort) (*agent.Conn, error) {
	a, err := p.Agent()
	if err != nil {
		return nil, err
	}
	return a.Dial(ctx, network, to)
}

// DialUnsteered connects from the place's netns by a socket of the calling
// process, which is in no cgroup of the lab: for asking daemons, and for
// speaking to the mesh without being in it.
func (p *Place) DialUnsteered(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := p.ns.sockets.Dial(ctx, to, nil)
	if err != nil {
		return nil, err // a nil *net.TCPConn would not be a nil net.Conn
	}
	return conn, nil
}

// Cookie is the netns cookie of the place, by which the kernel knows it.
func (p *Place) Cookie() uint64 { return uint64(p.ns.sockets.Cookie()) }

// Serve starts a server on a port of the place, for IPv4 and IPv6 by one
// socket: it sees IPv4 peers as v4-mapped.
func (p *Place) Serve(ctx context.Context, kind agent.Kind, port uint16) (*agent.Listener, error) {
	a, err := p.Agent()
	if err != nil {
		return nil, err
	}
	any6 := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	return a.Serve(ctx, agent.Server{Socket: agent.Socket{Network: "tcp6", Bind: any6}, Kind: kind})
}

// Ping dials an echo server and has it echo the message.
func (p *Place) Ping(ctx context.Context, network string, to netip.AddrPort, message string) error {
	conn, err := p.Dial(ctx, network, to)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx, message), conn.Close())
}

// Start runs a program in the place until it ends or is stopped.
func (p *Place) Start(name string, argv ...string) (*Process, error) {
	return p.lab.startLogged(p, p.name+"-"+name, exec.Command(argv[0], argv[1:]...))
}

// Run runs a program in the place to its end, and returns what it printed.
func (p *Place) Run(ctx context.Context, argv ...string) (string, error) {
	return p.lab.runIn(ctx, p, argv)
}

// App is the path of the lab's app, whose commands are servers and clients.
func (p *Place) App() string { return p.lab.program("app") }

// Sysctl sets a value below net in the place's netns, as "ipv4/tcp_syncookies".
func (p *Place) Sysctl(name, value string) error {
	return p.lab.sysctl(p.ns, map[string]string{name: value})
}

// Cubic has the place's IPv4 connections use cubic, also where it may not be
// the default of a netns, if the kernel has it at all. Routes that come later
// are not changed.
func (p *Place) Cubic() error {
	have, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil || !slices.Contains(strings.Fields(string(have)), "cubic") {
		return err
	}
	return p.ns.routeCongestion("cubic")
}

// Sever resets the place's established IPv4 connections to a port: both ends
// learn that they are gone. Not every kernel can do it (CONFIG_INET_DIAG_DESTROY).
func (p *Place) Sever(port uint16) error {
	return p.lab.thread.in(p.ns.fd, func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list the connections of %s: %w", p.name, err)
		}
		for _, s := range sockets {
			if s.ID.DestinationPort != port || s.State != netlink.TCP_ESTABLISHED {
				continue
			}
			local := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}
			remote := &net.TCPAddr{IP: s.ID.Destination, Port: int(port)}
			if err := netlink.SocketDestroy(local, remote); err != nil {
				return fmt.Errorf("reset %v to %v: %w", local, remote, err)
			}
		}
		return nil
	})
}

// Restart ends what runs in the place and gives it a new cgroup at the same
// path, as systemd does with a service.
func (p *Place) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := removeCgroup(ctx, p.Cgroup); err != nil {
		return fmt.Errorf("stop what runs in %s: %w", p.name, err)
	}
	if p.proc != nil {
		<-p.proc.Done()
	}
	return os.Mkdir(p.Cgroup, 0o755)
}

// Below makes a place whose cgroup is a child of this one's.
func (p *Place) Below(child string) (*Place, error) {
	path, err := filepath.Rel(p.lab.run.cgroup, p.Cgroup)
	if err != nil {
		return nil, err
	}
	return p.lab.newPlace(p.name+"-"+child, p.ns, path, child)
}

// remove ends what runs in the place. Its netns is its owner's.
func (p *Place) remove(ctx context.Context) error {
	return removeCgroup(ctx, p.Cgroup)
}
