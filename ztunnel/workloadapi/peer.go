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
)

// caller is who connected: a process, and the pod that it is of.
type caller struct {
	credentials.CommonAuthInfo
	process *process
	pod     string
	id      spiffeid.ID
	err     error // why it is of no pod
}

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

// still says why the caller has no right any more to what it had.
func (c *caller) still(of func(pid int) (string, spiffeid.ID, error)) error {
	if c.err != nil {
		return c.err
	}
	pod, id, err := c.ask(of)
	if err == nil && (pod != c.pod || id != c.id) {
		err = fmt.Errorf("the process is of another pod than before")
	}
	return err
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
	who := &caller{process: process, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	who.pod, who.id, who.err = who.ask(a.s.cfg.Caller)
	if !a.s.places.take(who.pod) {
		process.close()
		a.s.cfg.Log.Warn("a pod has too many connections to the Workload API", logPod, who.pod)
		return nil, nil, fmt.Errorf("pod %q has too many connections", who.pod)
	}
	return &held{Conn: conn, release: sync.OnceFunc(func() {
		a.s.places.give(who.pod)
		process.close()
	})}, who, nil
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

func (p *places) give(pod string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.held[pod]--; p.held[pod] == 0 {
		delete(p.held, pod)
	}
}
