// SPDX-License-Identifier: Apache-2.0

package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/culvert-mesh/culvert/rate"
)

// caller is the process that connected. It may connect before its pod is known, as while
// ztunnel restarts. Once it is of a pod, it stays of that one:
//
//	no pod -> pod -> gone
//	no pod --------> gone
type caller struct {
	credentials.CommonAuthInfo
	process *process
	places  *places

	mu    sync.Mutex // guards what follows
	pod   string     // whose place the connection has; "": of no pod yet
	id    spiffeid.ID
	gone  bool // the place is given back
	calls rate.Left
}

var (
	errAnother = errors.New("the process is of another pod than before")
	errClosed  = errors.New("the connection is closed")
	errFull    = errors.New("its pod has too many connections")
)

// AuthType is part of credentials.AuthInfo.
func (*caller) AuthType() string { return "pidfd" }

// ask finds the caller's pod. That the process is still there afterwards proves that what
// was read of its pid was not of another that got the pid later.
func (c *caller) ask(of func(pid int) (string, spiffeid.ID, error)) (pod string, id spiffeid.ID, err error) {
	pid, err := c.process.pid()
	if err != nil {
		return "", spiffeid.ID{}, err
	}
	if pod, id, err = of(pid); err != nil {
		return "", spiffeid.ID{}, err
	}
	return pod, id, c.process.alive()
}

// enter takes a place for the connection: its pod's, or one of those of no pod.
func (c *caller) enter(of func(pid int) (string, spiffeid.ID, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pod, id, err := c.ask(of); err == nil {
		c.pod, c.id = pod, id
	}
	if !c.places.take(c.pod) {
		return errFull
	}
	return nil
}

// mayCall reports whether the connection has a call left.
func (c *caller) mayCall() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls.Spend(calls)
}

// now returns the identity that the caller has a right to at this moment.
func (c *caller) now(of func(pid int) (string, spiffeid.ID, error)) (spiffeid.ID, error) {
	pod, id, err := c.ask(of)
	if err != nil {
		return spiffeid.ID{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.gone:
		return spiffeid.ID{}, errClosed
	case c.pod == "":
		if !c.places.move(pod) {
			return spiffeid.ID{}, errFull
		}
		c.pod, c.id = pod, id
	case pod != c.pod || id != c.id:
		return spiffeid.ID{}, errAnother
	}
	return id, nil
}

// leave gives the place back.
func (c *caller) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	c.places.give(c.pod)
	c.process.close()
}

// process is one that cannot be mistaken for another: a descriptor names it, not a number.
type process struct{ pidfd *os.File }

var errEnded = errors.New("the process that connected has ended")

// peerOf is the process that called connect(2). The kernel has it since Linux 6.5.
func peerOf(conn *net.UnixConn) (*process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, optErr := -1, error(nil)
	if err := raw.Control(func(s uintptr) { fd, optErr = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD) }); err != nil {
		return nil, err
	}
	switch {
	case errors.Is(optErr, unix.ESRCH), errors.Is(optErr, unix.EINVAL):
		return nil, errEnded
	case optErr != nil:
		return nil, fmt.Errorf("ask for the process that connected: %w", optErr)
	}
	return &process{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// pid is what /proc calls it.
func (p *process) pid() (pid int, err error) {
	var text []byte
	if err := p.do(func(fd int) { text, err = os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd)) }); err != nil {
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if number, found := strings.CutPrefix(line, "Pid:"); found {
			pid, err := strconv.Atoi(strings.TrimSpace(number))
			switch {
			case err != nil:
				return 0, err
			case pid < 0:
				return 0, errEnded
			case pid == 0:
				return 0, errors.New("the process is in a pid namespace that ztunnel does not see (hostPID)")
			}
			return pid, nil
		}
	}
	return 0, errors.New("its descriptor names no pid")
}

func (p *process) alive() (err error) {
	if err := p.do(func(fd int) { err = unix.PidfdSendSignal(fd, 0, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(err, unix.ESRCH) {
		return errEnded
	}
	return nil // another error is of one that lives: it may not be signalled
}

// do calls f with the descriptor, which is not closed meanwhile.
func (p *process) do(f func(fd int)) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

func (p *process) close() { p.pidfd.Close() }

// Supported says why the kernel cannot tell who connects.
func Supported() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return fmt.Errorf("the kernel does not tell which process connects (SO_PEERPIDFD, Linux 6.5): %w", err)
	}
	return unix.Close(fd)
}

// attestor finds out who connected: credentials of a connection, as gRPC calls it.
type attestor struct{ s *Server }

// ServerHandshake takes nothing from the connection but the kernel's word.
func (a attestor) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("a connection of %T", conn)
	}
	process, err := peerOf(socket)
	if err != nil {
		return nil, nil, err
	}
	who := &caller{process: process, places: &a.s.places, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	if err := who.enter(a.s.cfg.Caller); err != nil {
		process.close()
		a.s.warn(who.pod)
		return nil, nil, err
	}
	return &held{Conn: conn, release: sync.OnceFunc(who.leave)}, who, nil
}

// held is a connection that has a place until it is closed.
type held struct {
	net.Conn
	release func()
}

func (h *held) Close() error {
	defer h.release()
	return h.Conn.Close()
}

// ClientHandshake is for clients, of which there are none.
func (attestor) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("it is a server's")
}

// Info is part of credentials.TransportCredentials.
func (attestor) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "pidfd"}
}

// Clone is part of credentials.TransportCredentials.
func (a attestor) Clone() credentials.TransportCredentials { return a }

// OverrideServerName is part of credentials.TransportCredentials.
func (attestor) OverrideServerName(string) error { return nil }

// places bounds connections by pod. All that are of no pod share those of one.
type places struct {
	mu   sync.Mutex // guards what follows
	all  int
	held map[string]int
}

func (p *places) take(pod string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxConnections || p.held[pod] >= maxConnectionsPod {
		return false
	}
	p.all++
	p.held[pod]++
	return true
}

// move makes one of the places of no pod one of pod's, if that has one left.
func (p *places) move(pod string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[pod] >= maxConnectionsPod {
		return false
	}
	p.held[pod]++
	p.drop("")
	return true
}

func (p *places) give(pod string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	p.drop(pod)
}

// drop is for whoever holds mu.
func (p *places) drop(pod string) {
	if p.held[pod]--; p.held[pod] == 0 {
		delete(p.held, pod)
	}
}
