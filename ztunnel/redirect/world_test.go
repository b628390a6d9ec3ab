// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Addresses of the test: a node with a veth to each of its pods, and, on the
// node's lo, clients from elsewhere.
var (
	node4, node6     = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")
	client4, client6 = netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:9::9")
	far4, far6       = netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:7::7")
)

const probing = "CULVERT_TEST_PROBE" // netns and address, for TestMain

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(probing)); len(args) == 2 {
		os.Exit(probeMain(args[0], args[1]))
	}
	if dir := os.Getenv(locking); dir != "" {
		os.Exit(lockMain(dir))
	}
	if args := strings.Fields(os.Getenv(migrating)); len(args) == 3 {
		os.Exit(migrateMain(args))
	}
	os.Exit(env.CheckLeaks(m))
}

// world is a node without pods, and a datapath whose cgroup holds this process.
type world struct {
	t      testing.TB
	d      *Datapath
	opts   Options
	cgroup string
	ns     *netns.NS
	path   string
	pods   int
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	env.Need(t, env.BPF, env.Cgroup2, env.Netns)
	w := &world{t: t, cgroup: env.NewCgroup(t), path: env.NewNetns(t)}
	w.ns = open(t, w.path)
	for _, dir := range []string{"kubelet", "pods"} {
		if err := os.Mkdir(filepath.Join(w.cgroup, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	join(t, filepath.Join(w.cgroup, "pods"))
	w.opts = Options{
		BPFFS:         filepath.Join(env.BPFFS(t), "culvert"),
		Cgroup:        w.cgroup,
		KubeletCgroup: filepath.Join(w.cgroup, "kubelet"),
		HostNetns:     w.ns.Cookie(),
	}
	for _, f := range change {
		f(&w.opts)
	}
	w.d = load(t, w.opts)
	w.in(w.ns, func() error {
		return errors.Join(addAddr("lo", client4, 32), addAddr("lo", client6, 128))
	})
	return w
}

func load(t testing.TB, opts Options) *Datapath {
	t.Helper()
	d, err := Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Unpin(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// join moves this process; env.NewCgroup moves it back.
func join(t testing.TB, cgroup string) {
	t.Helper()
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *netns.NS {
	t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func (w *world) in(ns *netns.NS, f func() error) {
	w.t.Helper()
	if err := ns.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

// testPod is a pod of the world, enrolled or not.
type testPodNS struct {
	*world
	ns     *netns.NS
	path   string
	device string // the node's end of eth0
	v4, v6 netip.Addr
	s      Sandbox

	declared []uint16 // container ports
}

// pod makes a pod that is not enrolled.
func (w *world) pod() *testPodNS {
	w.t.Helper()
	w.pods++
	p := &testPodNS{world: w, path: env.NewNetns(w.t)}
	p.ns = open(w.t, p.path)
	p.v4 = netip.AddrFrom4([4]byte{10, 77, byte(w.pods), 2})
	p.v6 = netip.MustParseAddr(fmt.Sprintf("fd77:0:0:%x::2", w.pods))
	host := fmt.Sprintf("veth%d", w.pods)
	p.device = host
	for _, ns := range []*netns.NS{w.ns, p.ns} { // or the first second is lost to DAD
		w.in(ns, func() error { return writeSysctl("net/ipv6/conf/default/accept_dad", "0") })
	}
	w.in(w.ns, func() error {
		return p.ns.Fd(func(fd int) error { return addVeth(host, fd) })
	})
	// Addresses of a device without carrier stay tentative: both ends first.
	w.in(p.ns, func() error { return linkUp("eth0") })
	w.in(w.ns, func() error { return linkUp(host) })
	w.in(p.ns, func() error {
		return errors.Join(addAddr("eth0", p.v4, 32), addAddr("eth0", p.v6, 128),
			addRoute1("eth0", node4, 32, netip.Addr{}), addRoute1("eth0", netip.IPv4Unspecified(), 0, node4),
			addRoute1("eth0", node6, 128, netip.Addr{}), addRoute1("eth0", netip.IPv6Unspecified(), 0, node6),
			settle(w.t.Context(), []netip.Addr{p.v6}))
	})
	w.in(w.ns, func() error {
		return errors.Join(addAddr(host, node4, 32), addAddr(host, node6, 128),
			addRoute1(host, p.v4, 32, netip.Addr{}), addRoute1(host, p.v6, 128, netip.Addr{}),
			settle(w.t.Context(), []netip.Addr{node6, client6}))
	})
	return p
}

// enrolled makes a pod and enrols it.
func (w *world) enrolled(probePorts ...uint16) *testPodNS {
	w.t.Helper()
	p := w.pod()
	p.enroll(w.d, probePorts...)
	return p
}

func (p *testPodNS) enroll(d *Datapath, probePorts ...uint16) {
	p.t.Helper()
	settled, tentative, err := p.ns.Addrs()
	if err != nil {
		p.t.Fatal(err)
	}
	addrs := slices.DeleteFunc([]netip.Addr{p.v4, p.v6}, func(addr netip.Addr) bool {
		return !slices.Contains(settled, addr) && !slices.Contains(tentative, addr)
	})
	lns, err := d.Listen(p.t.Context(), p.ns, p.declared)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { lns.Close() })
	p.s = Sandbox{NS: p.ns, Addrs: addrs, ProbePorts: probePorts, Listeners: lns}
	if err := d.Route(p.ns, addrs); err != nil {
		p.t.Fatal(err)
	}
	if err := errors.Join(d.SteerInbound(p.s), d.SteerOutbound(p.s)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *testPodNS) addr(six bool) netip.Addr {
	if six {
		return p.v6
	}
	return p.v4
}

func (p *testPodNS) outbound(six bool) *net.TCPListener {
	if six {
		return p.s.Listeners.Outbound6
	}
	return p.s.Listeners.Outbound4
}

// listen opens an app's listener in the pod.
func (p *testPodNS) listen(at netip.AddrPort) *net.TCPListener {
	p.t.Helper()
	ln, err := p.ns.Listen(p.t.Context(), at, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ln.Close() })
	return ln
}

// serve answers each connection with a line: its name and the peer's address.
func serve(t testing.TB, ln *net.TCPListener, name string) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s %v %v\n", name, conn.RemoteAddr().(*net.TCPAddr).IP, conn.LocalAddr())
			conn.Close()
		}
	}()
}

// serveAll names the listeners that steering may reach.
func (p *testPodNS) serveAll() {
	l := p.s.Listeners
	for _, s := range []struct {
		ln   *net.TCPListener
		name string
	}{{l.Inbound4, "plaintext"}, {l.Inbound6, "plaintext"}, {l.HBONE4, "hbone"}, {l.HBONE6, "hbone"}, {l.Outbound4, "outbound"}, {l.Outbound6, "outbound"}} {
		if s.ln != nil {
			serve(p.t, s.ln, s.name)
		}
	}
}

// patience is how long a test waits for what comes at once on a machine that is not busy.
const patience = 20 * time.Second

// ask connects from a netns and returns the answering server's line.
func ask(ns *netns.NS, to netip.AddrPort, prepare func(fd int) error) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := ns.Dial(ctx, to, prepare)
	if err != nil {
		return "", err
	}
	return greeting(conn)
}

// greeting reads until the server has closed, so that the server's port is the
// one in TIME_WAIT.
func greeting(conn *net.TCPConn) (string, error) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	return strings.TrimSpace(string(text)), err
}

// wantServer fails the test unless the server of that name answers.
func wantServer(t *testing.T, ns *netns.NS, to netip.AddrPort, name string, prepare ...func(fd int) error) {
	t.Helper()
	var f func(int) error
	if len(prepare) > 0 {
		f = prepare[0]
	}
	got, err := ask(ns, to, f)
	if who, _, _ := strings.Cut(got, " "); err != nil || who != name {
		t.Errorf("%v answers %q, %v; want %s", to, got, err, name)
	}
}

// wantRefused wants ECONNREFUSED each time, within 10 ms once: the machine may
// be busy.
func wantRefused(t *testing.T, ns *netns.NS, to netip.AddrPort, prepare func(fd int) error) {
	t.Helper()
	fastest := time.Hour
	for try := 0; try < 20 && fastest > 10*time.Millisecond; try++ {
		start := time.Now()
		if got, err := ask(ns, to, prepare); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("%v answers %q, %v; want ECONNREFUSED", to, got, err)
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 10*time.Millisecond {
		t.Errorf("%v refused after %v at best", to, fastest)
	}
}

func bindTo(addr netip.Addr, port uint16) func(fd int) error {
	return func(fd int) error {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			bind(fd, netip.AddrPortFrom(addr, port)))
	}
}

// probeFrom runs this binary in a cgroup and a netns, and has it ask.
func (w *world) probeFrom(cgroup, ns string, to netip.AddrPort) (string, error) {
	w.t.Helper()
	dir, err := os.Open(filepath.Join(w.cgroup, cgroup))
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), probing+"="+ns+" "+to.String(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func probeMain(path, to string) int {
	ns, err := netns.Open(path)
	if err == nil {
		var got string
		if got, err = ask(ns, netip.MustParseAddrPort(to), nil); err == nil {
			fmt.Println(got)
			return 0
		}
	}
	fmt.Println(err)
	return 1
}

func addVeth(host string, podFd int) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: host},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(podFd),
	}
	return netlink.LinkAdd(veth)
}

func addAddr(dev string, addr netip.Addr, bits int) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
	return netlink.AddrReplace(l, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD})
}

func delAddr(dev string, addr netip.Addr) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.AddrDel(l, &netlink.Addr{IPNet: netlink.NewIPNet(addr.AsSlice())})
}

func linkUp(dev string) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	return netlink.LinkSetUp(l)
}

func linkDel(dev string) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	return netlink.LinkDel(l)
}

func addRoute1(dev string, to netip.Addr, bits int, via netip.Addr) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(bits, to.BitLen())},
		Scope:     netlink.SCOPE_LINK,
	}
	if via.IsValid() {
		route.Gw, route.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %v: %w", to, err)
	}
	return nil
}
