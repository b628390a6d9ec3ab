// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

func TestVerifyRepairsWhatWasRemovedByHand(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled(8080)
	p.serveAll()
	node, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, node, "node")
	serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
	pins := newPins(w.opts.BPFFS)
	detach := func(pin string) func() error {
		return func() error {
			l, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				return err
			}
			defer l.Close()
			return l.Detach()
		}
	}
	remove := func(pin string) func() error { return func() error { return os.Remove(pin) } }
	both := func(a, b func() error) func() error { return func() error { return errors.Join(a(), b()) } }
	connect4, pod := filepath.Join(pins.links, "connect4"), pins.pod(p.ns.Cookie())
	cookie := uint64(p.ns.Cookie())
	for _, tc := range []struct {
		name     string
		harm     func() error
		leaves   bool // the pod's connections are not steered meanwhile
		arrives  bool // connections reach the app meanwhile, and none leave
		repaired int
	}{
		{"nothing", func() error { return nil }, false, false, 0},
		{"connect4 detached", detach(connect4), true, false, 1},
		{"connect4 unpinned", remove(connect4), false, false, 1},
		{"connect4 detached and unpinned", both(detach(connect4), remove(connect4)), true, false, 1},
		{"sk_lookup detached", detach(pod), false, true, 1},
		{"sk_lookup unpinned", remove(pod), false, false, 1},
		{"pod removed", func() error { return w.d.mesh.Pods.Delete(cookie) }, true, false, 1},
		{"all pins removed", func() error { return os.RemoveAll(pins.links) }, false, false, len(w.d.anchors)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.harm(); err != nil {
				t.Fatal(err)
			}
			out, in := "outbound", "plaintext"
			if tc.leaves {
				out = "node"
			}
			if tc.arrives { // without sk_lookup, which finds the listener of what leaves, too
				in = "app"
				wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
			} else {
				wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), out)
			}
			wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), in)
			if missing := w.d.Missing(p.ns.Cookie()); len(missing) > 0 != (tc.leaves || tc.arrives) {
				t.Errorf("Missing: %q", missing)
			}
			repaired, err := w.d.Verify(t.Context())
			if err != nil || len(repaired) != tc.repaired {
				t.Errorf("Verify: %q, %v; want %d repairs", repaired, err, tc.repaired)
			}
			wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
			wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
			if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
				t.Errorf("Verify again: %q, %v", repaired, err)
			}
		})
	}
}

func TestVerifyPinsMapsAgainSoThatTheNextRunFindsItsPods(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	pins := newPins(w.opts.BPFFS)
	entries, err := os.ReadDir(pins.dir)
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for _, e := range entries {
		if !e.IsDir() {
			removed++
			if err := os.Remove(filepath.Join(pins.dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != removed {
		t.Errorf("Verify: %q, %v; want %d repairs", repaired, err, removed)
	}
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
		t.Errorf("Verify again: %q, %v", repaired, err)
	}
	p.s.Listeners.Close()
	w.d.Close()
	w.d = load(t, w.opts)
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
}

func TestVerifyRestoresAddressesAndListeners(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	key := meshListenerKey{Netns: uint64(p.ns.Cookie()), Kind: meshListenerKindLISTENER_PLAINTEXT4}
	for _, harm := range []func() error{
		func() error { return w.d.mesh.PodIps.Delete(wireAddr(p.v4)) },
		func() error { return w.d.mesh.Listeners.Delete(key) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil) // meanwhile
		if missing := w.d.Missing(p.ns.Cookie()); len(missing) != 1 {
			t.Errorf("Missing: %q", missing)
		}
		if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != 1 {
			t.Errorf("Verify: %q, %v", repaired, err)
		}
		wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
	}
	for kind, to := range map[meshListenerKind]netip.Addr{
		meshListenerKindLISTENER_OUTBOUND4: node4, meshListenerKindLISTENER_OUTBOUND6: node6,
	} {
		if err := w.d.mesh.Listeners.Delete(meshListenerKey{Netns: uint64(p.ns.Cookie()), Kind: kind}); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, p.ns, netip.AddrPortFrom(to, 8080), nil)
		if missing := w.d.Missing(p.ns.Cookie()); len(missing) != 1 {
			t.Errorf("Missing: %q, want the listener", missing)
		}
		if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != 1 {
			t.Errorf("Verify: %q, %v", repaired, err)
		}
		wantServer(t, p.ns, netip.AddrPortFrom(to, 8080), "outbound")
	}
}

func TestPodsStayRefusedWithoutZtunnelAndRecoverWithTheNext(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	app := p.listen(netip.AddrPortFrom(p.v4, 8080))
	serve(t, app, "app")
	// As kill -9 leaves it: sockets and handles gone, pins there.
	p.s.Listeners.Close()
	w.d.Close()
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
	wantRefused(t, p.ns, netip.AddrPortFrom(node6, 8080), nil)
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	wantServer(t, p.ns, netip.AddrPortFrom(p.v4, 8080), "app")

	w.d = load(t, w.opts)
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	p.enroll(w.d)
	p.serveAll()
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
	if n := programs(t, p.ns); n != 1 {
		t.Errorf("%d programs on the pod's netns, want 1", n)
	}
}

func TestBrokenPinsAreReplaced(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	pins := newPins(w.opts.BPFFS)
	w.d.Close()
	// Something else under the names of our links.
	for _, pin := range []string{filepath.Join(pins.links, "connect4"), pins.pod(p.ns.Cookie())} {
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Pin(pin); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	w.d = load(t, w.opts)
	p.s.Listeners.Close()
	p.enroll(w.d)
	p.serveAll()
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
		t.Errorf("Verify: %q, %v", repaired, err)
	}
}

func wantEmpty(t *testing.T, d *Datapath) {
	t.Helper()
	for name, m := range map[string]*ebpf.Map{
		"pods": d.mesh.Pods, "pod_ips": d.mesh.PodIps, "own_ips": d.mesh.OwnIps,
		"probe_ports": d.mesh.ProbePorts, "routed": d.mesh.Routed, "inner": d.mesh.Inner, "bypass": d.mesh.Bypass,
		"original_dst": d.mesh.OriginalDst,
	} {
		if n := count(t, m); n != 0 {
			t.Errorf("%d entries left in map %s", n, name)
		}
	}
	keys := 0
	var key, next meshListenerKey
	for err := d.mesh.Listeners.NextKey(nil, &next); err == nil; err = d.mesh.Listeners.NextKey(key, &next) {
		key = next
		keys++
	}
	if keys != 0 {
		t.Errorf("%d entries left in map listeners", keys)
	}
	if pinned, err := d.pins.adopted(); err != nil || len(pinned) != 0 {
		t.Errorf("pins left: %v, %v", pinned, err)
	}
}

func programs(t *testing.T, ns *netns.NS) (n int) {
	t.Helper()
	err := ns.Fd(func(fd int) error {
		q, err := link.QueryPrograms(link.QueryOptions{Target: fd, Attach: ebpf.AttachSkLookup})
		if err == nil {
			n = len(q.Programs)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPodsComeAndGoWithoutATrace(t *testing.T) {
	w := newWorld(t)
	var took time.Duration
	for range 50 {
		p := &testPodNS{world: w}
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		p.ns, p.v4, p.v6 = ns, testPod[0], testPod[1]
		st := &selfTest{d: w.d, ns: ns}
		start := time.Now()
		if err := st.enroll(t.Context()); err != nil {
			t.Fatal(err)
		}
		took += time.Since(start)
		if err := st.steerOutbound(t.Context(), testPod[0], testFar[0]); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.leave(), w.d.Unroute(ns), ns.Close()); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, w.d)
	t.Logf("%v to enrol", took/50)
}

func TestAddressThatPassedToAnotherPodStaysItsOwn(t *testing.T) {
	w := newWorld(t)
	first := w.enrolled()
	first.s.Listeners.Close()
	second := w.pod()
	// The CNI gives the address of the first, whose DEL we are yet to see.
	w.in(w.ns, func() error { return addRoute1("veth2", first.v4, 32, netip.Addr{}) })
	w.in(first.ns, func() error { return delAddr("eth0", first.v4) })
	second.v4 = first.v4
	w.in(second.ns, func() error { return addAddr("eth0", second.v4, 32) })
	second.enroll(w.d)
	second.serveAll()
	if err := errors.Join(w.d.UnsteerOutbound(first.ns.Cookie()), w.d.UnsteerInbound(first.ns.Cookie())); err != nil {
		t.Fatal(err)
	}
	wantServer(t, w.ns, netip.AddrPortFrom(second.v4, 8080), "plaintext")
	wantServer(t, second.ns, netip.AddrPortFrom(node4, 8080), "outbound")
}

func TestTwoInstancesOnOneKernelDoNotSeeEachOthersPods(t *testing.T) {
	w := newWorld(t)
	other := w.opts
	other.BPFFS += "-2" // and the same cgroup, which two nodes of a lab do not even share
	d2 := load(t, other)
	first, second := w.enrolled(), w.pod()
	second.enroll(d2)
	first.serveAll()
	second.serveAll()
	for _, p := range []*testPodNS{first, second} {
		wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
		wantServer(t, w.ns, netip.AddrPortFrom(p.v6, 8080), "plaintext")
	}
	if left, err := d2.Reconcile([]netns.Cookie{second.ns.Cookie()}); err != nil || len(left) > 0 {
		t.Errorf("Reconcile of the second instance: %v, %v", left, err)
	}
	if n := count(t, d2.mesh.Pods); n != 1 {
		t.Errorf("%d pods in the second instance, want 1", n)
	}
	if err := errors.Join(w.d.SelfTest(t.Context()), d2.SelfTest(t.Context())); err != nil {
		t.Error(err)
	}
	if err := d2.Unpin(); err != nil {
		t.Error(err)
	}
	wantServer(t, first.ns, netip.AddrPortFrom(node4, 8080), "outbound")
}

func TestPinsAreForRootOnly(t *testing.T) {
	w := newWorld(t)
	pins := newPins(w.opts.BPFFS)
	for _, dir := range []string{pins.root, pins.dir, pins.links, pins.pods} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want 0700", dir, st.Mode(), err)
		}
	}
}

func TestAPodThatCannotBeEnrolledAgainStaysRefused(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
	p.s.Listeners.Close()
	w.d.Close()
	w.d = load(t, w.opts)
	if in, out := w.d.Steered(p.ns.Cookie()); !in || !out {
		t.Errorf("steered since an earlier run: inbound %v, outbound %v", in, out)
	}

	if err := w.d.SteerInbound(p.s); err == nil { // its listeners are closed
		t.Error("closed listeners were steered to")
	}
	fill(t, w.d.mesh.OwnIps)
	p.s.Addrs = append(p.s.Addrs, far4)
	if err := w.d.SteerOutbound(p.s); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("SteerOutbound: %v, want ENOBUFS", err)
	}
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)

	// One that was not steered before is left as if nobody had tried.
	other := w.pod()
	other.s = p.s
	other.s.NS = other.ns
	if w.d.SteerInbound(other.s) == nil || w.d.SteerOutbound(other.s) == nil {
		t.Error("a pod is steered without listeners and room")
	}
	if in, out := w.d.Steered(other.ns.Cookie()); in || out {
		t.Errorf("not enrolled, and yet steered: inbound %v, outbound %v", in, out)
	}
}

// fill leaves no room in a map whose keys begin with a netns cookie.
func fill(t *testing.T, m *ebpf.Map) {
	t.Helper()
	for i := range m.MaxEntries() {
		key := meshPodAddr{Netns: 1<<40 | uint64(i)}
		if err := m.Put(key, uint8(1)); errors.Is(err, unix.E2BIG) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
