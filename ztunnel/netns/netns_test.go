// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

func open(t *testing.T) *NS {
	t.Helper()
	ns, err := Open(env.NewNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCookiesAndInodesTellNetworkNamespacesApart(t *testing.T) {
	a, b := open(t), open(t)
	if a.Cookie() == 0 || a.Cookie() == b.Cookie() || a.Inode() == b.Inode() {
		t.Errorf("cookies %d and %d, inodes %d and %d", a.Cookie(), b.Cookie(), a.Inode(), b.Inode())
	}
	home, err := Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	again, err := Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if home.Cookie() != again.Cookie() || home.Inode() != again.Inode() {
		t.Errorf("our own netns has cookies %d and %d", home.Cookie(), again.Cookie())
	}
}

func TestOpenRefusesWhatIsNotANetworkNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/proc/self/ns/mnt": "/proc/self/ns/mnt is not a network namespace",
		file:                "is not a network namespace",
		file + "x":          "no such file",
	} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): %v; want %q", path, err, want)
		}
	}
}

func TestDoRunsInsideAndComesHome(t *testing.T) {
	ns := open(t)
	home := here(t)
	boom := errors.New("boom")
	for range 20 {
		err := ns.Do(func() error {
			if here(t) == home {
				t.Error("Do runs at home")
			}
			return boom
		})
		if err != boom {
			t.Fatal(err)
		}
		if here(t) != home {
			t.Fatal("the caller's thread is away")
		}
	}
}

func TestNewIsEmptyAndGoneWhenClosed(t *testing.T) {
	env.Need(t, env.Netns)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if settled, tentative, err := ns.Addrs(); err != nil || len(settled)+len(tentative) != 0 {
		t.Errorf("addresses %v and %v, %v", settled, tentative, err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
	closed := map[string]error{
		"Do":    ns.Do(func() error { return nil }),
		"Fd":    ns.Fd(func(int) error { return nil }),
		"Close": ns.Close(),
	}
	_, closed["Dial"] = ns.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"), nil)
	for name, err := range closed {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestSocketsLiveInTheNamespaceAndThreadsDoNot(t *testing.T) {
	ns := open(t)
	home := here(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		prepared := 0
		prepare := func(fd int) error {
			prepared++
			if proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
				t.Errorf("protocol %d, %v; MPTCP cannot be steered", proto, err)
			}
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
			if err != nil || Cookie(cookie) != ns.Cookie() {
				t.Errorf("socket is in netns %d, %v; want %d", cookie, err, ns.Cookie())
			}
			if here(t) != home {
				t.Error("prepare runs away from home")
			}
			return nil
		}
		ln, err := ns.Listen(t.Context(), netip.MustParseAddrPort(at), func(fd int) error {
			prepared++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := ns.Dial(t.Context(), ln.Addr().(*net.TCPAddr).AddrPort(), prepare)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if prepared != 2 || here(t) != home {
			t.Errorf("prepared %d of 2 sockets; thread in %s, home is %s", prepared, here(t), home)
		}
		conn.Close()
		accepted.Close()
		ln.Close()
	}
}

func TestFailedDialsBringTheThreadHome(t *testing.T) {
	ns := open(t)
	home := here(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	boom := errors.New("boom")
	to := netip.MustParseAddrPort("127.0.0.1:9")
	for name, tc := range map[string]struct {
		ctx     context.Context
		to      netip.AddrPort
		prepare func(int) error
		want    error
	}{
		"refused":   {t.Context(), to, nil, unix.ECONNREFUSED},
		"cancelled": {cancelled, to, nil, context.Canceled},
		"prepare":   {t.Context(), to, func(int) error { return boom }, boom},
		"no route":  {t.Context(), netip.MustParseAddrPort("192.0.2.1:9"), nil, unix.ENETUNREACH},
	} {
		_, err := ns.Dial(tc.ctx, tc.to, tc.prepare)
		if !errors.Is(err, tc.want) && (err == nil || !strings.Contains(err.Error(), tc.want.Error())) &&
			!strings.Contains(err.Error(), "operation was canceled") {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if here(t) != home {
			t.Fatalf("%s: the thread is away", name)
		}
	}
}

// Package net dials twice after EADDRNOTAVAIL and after a self-connect. The
// second socket would be made at home, in the node's netns.
func TestDialNeverMakesASecondSocket(t *testing.T) {
	ns := open(t)
	to := netip.MustParseAddrPort("127.0.0.1:4321")
	wantOneSocket := func(from int, to uint16) {
		t.Helper()
		sockets := 0
		conn, err := ns.Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to), func(fd int) error {
			sockets++
			return bindPort(fd, from)
		})
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) || sockets != 1 {
			t.Errorf("%d sockets, %v; want one and EADDRNOTAVAIL", sockets, err)
		}
	}
	wantOneSocket(4322, 4322) // to itself

	ln, err := ns.Listen(t.Context(), to, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	first, err := ns.Dial(t.Context(), to, func(fd int) error { return bindPort(fd, 4323) })
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	wantOneSocket(4323, 4321) // a connection that exists
}

func bindPort(fd, port int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
}

func TestConcurrentDialsAndDosDoNotMixNamespaces(t *testing.T) {
	const each = 50
	home := here(t)
	done := make(chan error, 2)
	for range 2 {
		ns := open(t)
		ln, err := ns.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:5000"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for range each {
				conn, err := ns.Dial(context.Background(), netip.MustParseAddrPort("127.0.0.1:5000"), nil)
				if err != nil {
					done <- err
					return
				}
				conn.Close()
				if err := ns.Do(func() error { return nil }); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if here(t) != home {
		t.Error("a thread is away")
	}
}

// An urgent byte is among the others in a pod's connections, and does not
// disappear.
func TestUrgentBytesStayInTheStream(t *testing.T) {
	ns := open(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := ns.Listen(t.Context(), netip.MustParseAddrPort(at), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		dialled, err := ns.Dial(t.Context(), ln.Addr().(*net.TCPAddr).AddrPort(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer dialled.Close()
		accepted, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		for _, ends := range [][2]*net.TCPConn{{dialled, accepted}, {accepted, dialled}} {
			from, to := ends[0], ends[1]
			for _, urgent := range []string{"a", "bc"} {
				if err := onFd(raw(t, from), func(fd int) error { return unix.Sendto(fd, []byte(urgent), unix.MSG_OOB, nil) }); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := from.Write([]byte("d")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			to.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(to, got); err != nil || string(got) != "abcd" {
				t.Errorf("%s: got %q, %v; want abcd", at, got, err)
			}
		}
	}
}

func raw(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Whoever keeps goroutines for others' work has to know that a thread stayed away.
func TestAThreadThatDoesNotComeHomeIsTold(t *testing.T) {
	ns := open(t)
	nowhere, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	home := ns.home
	ns.home = nowhere
	t.Cleanup(func() {
		ns.home = home
		nowhere.Close()
		stranded.Store(false)
	})
	done := make(chan error)
	go func() { // whose thread ends with it
		_, err := ns.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:9"), nil)
		done <- err
	}()
	if _, ok := errors.AsType[*strandedError](<-done); !ok || !Stranded() {
		t.Errorf("told: %v", Stranded())
	}
}

// What a caller writes at once acknowledges the peer's SYN, too.
func TestADialSavesASegmentIfItsCallerWritesAtOnce(t *testing.T) {
	ns := open(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := ns.Listen(t.Context(), netip.MustParseAddrPort(at), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		// SYN, its acknowledgement and the data.
		if n := segmentsOf(t, ns, t.Context(), ln); n != 3 {
			t.Errorf("%s: %d segments, want 3", at, n)
		}
		saved := false
		for range 10 { // a thread that is held up for 200 ms before it writes saves nothing
			saved = saved || segmentsOf(t, ns, socket.WritesAtOnce(t.Context()), ln) == 2
		}
		if !saved {
			t.Errorf("%s: what is written at once saves no segment", at)
		}
	}
}

// segmentsOf is how many segments a connection has sent when its peer has its first data.
func segmentsOf(t *testing.T, ns *NS, ctx context.Context, ln *net.TCPListener) (n uint32) {
	t.Helper()
	conn, err := ns.Dial(ctx, ln.Addr().(*net.TCPAddr).AddrPort(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if _, err := io.ReadFull(accepted, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := onFd(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Segs_out
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}
