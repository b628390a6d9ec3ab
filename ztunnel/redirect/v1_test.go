// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// v1 is what a ztunnel of layout v1 (commit d1651a1) has loaded, by its own BPF
// objects in testdata/v1.
type v1 struct {
	w       *world
	pins    pins
	out, in *ebpf.Collection
	links   []link.Link
	sockets []*net.TCPListener
}

// loadV1 loads, attaches and pins as that version did. Maps and links that are
// pinned are taken over.
func (w *world) loadV1() *v1 {
	w.t.Helper()
	v := &v1{w: w, pins: pinsOf(w.opts.BPFFS, 1)}
	if err := v.pins.make(); err != nil {
		w.t.Fatal(err)
	}
	v.out = v.collection("outbound_bpfel.o", map[string]uint64{"host_netns": uint64(w.opts.HostNetns)})
	v.in = v.collection("inbound_bpfel.o", nil)
	for _, hook := range []struct {
		name string
		at   ebpf.AttachType
	}{
		{"sockops", ebpf.AttachCGroupSockOps},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername}, {"getpeername6", ebpf.AttachCgroupInet6GetPeername},
		{"connect4", ebpf.AttachCGroupInet4Connect}, {"connect6", ebpf.AttachCGroupInet6Connect},
	} {
		prog := v.out.Programs["outbound_"+hook.name]
		v.link(filepath.Join(v.pins.links, hook.name), prog, func() (link.Link, error) {
			return attachCgroup(w.opts.Cgroup, hook.at, prog)
		})
	}
	w.t.Cleanup(func() {
		v.kill()
		if err := v.pins.remove(); err != nil {
			w.t.Error(err)
		}
	})
	return v
}

func (v *v1) collection(file string, variables map[string]uint64) *ebpf.Collection {
	v.w.t.Helper()
	spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", "v1", file))
	if err != nil {
		v.w.t.Fatal(err)
	}
	for name, value := range variables {
		if err := spec.Variables[name].Set(value); err != nil {
			v.w.t.Fatal(err)
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: v.pins.dir}})
	if err != nil {
		v.w.t.Fatal(err)
	}
	return c
}

func (v *v1) link(pin string, prog *ebpf.Program, attach func() (link.Link, error)) {
	v.w.t.Helper()
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		err = l.Update(prog)
	} else if l, err = attach(); err == nil {
		err = l.Pin(pin)
	}
	if err != nil {
		v.w.t.Fatal(err)
	}
	v.links = append(v.links, l)
}

// enroll puts a pod into the mesh of v1.
func (v *v1) enroll(p *testPodNS, probePorts ...uint16) {
	v.w.t.Helper()
	cookie := uint64(p.ns.Cookie())
	listen := func(kind int, at netip.AddrPort, name string) *net.TCPListener {
		ln, err := p.ns.Listen(v.w.t.Context(), at, nil)
		if err != nil {
			v.w.t.Fatal(err)
		}
		v.sockets = append(v.sockets, ln)
		serve(v.w.t, ln, name)
		if kind >= 0 {
			key := meshListenerKey{Netns: cookie, Kind: meshListenerKind(kind)}
			v.put("listeners", key, fdOf(v.w.t, ln))
		}
		return ln
	}
	entry := meshPod{Addr4: wireAddr(p.v4), Addr6: wireAddr(p.v6)}
	entry.Port4 = wirePort(portOf(listen(-1, netip.AddrPortFrom(p.v4, 61000), "outbound")))
	entry.Port6 = wirePort(portOf(listen(-1, netip.AddrPortFrom(p.v6, 61000), "outbound")))
	for kind, lo := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		listen(kind, netip.AddrPortFrom(lo, 0), "plaintext")
		listen(kind+2, netip.AddrPortFrom(lo, 0), "hbone")
	}
	for _, addr := range []netip.Addr{p.v4, p.v6} {
		v.put("pod_ips", wireAddr(addr), cookie)
		v.put("own_ips", meshPodAddr{Netns: cookie, Addr: wireAddr(addr)}, uint8(1))
	}
	for _, port := range probePorts {
		v.put("probe_ports", meshPodPort{Netns: cookie, Port: wirePort(port)}, uint8(1))
	}
	prog := v.in.Programs["inbound_lookup"]
	v.link(v.pins.pod(p.ns.Cookie()), prog, func() (l link.Link, err error) {
		err = p.ns.Fd(func(fd int) (err error) {
			l, err = link.AttachNetNs(fd, prog)
			return err
		})
		return l, err
	})
	v.put("pods", cookie, entry)
}

func (v *v1) put(name string, key, value any) {
	v.w.t.Helper()
	if err := v.out.Maps[name].Put(key, value); err != nil {
		v.w.t.Fatalf("%s: %v", name, err)
	}
}

// kill ends it as kill -9 does: sockets and handles go, pins stay.
func (v *v1) kill() {
	for _, ln := range v.sockets {
		ln.Close()
	}
	for _, l := range v.links {
		l.Close()
	}
	v.out.Close()
	v.in.Close()
	v.sockets, v.links = nil, nil
}

func fdOf(t testing.TB, ln *net.TCPListener) (fd uint64) {
	t.Helper()
	if err := withFd(ln, func(n int) error { fd = uint64(n); return nil }); err != nil {
		t.Fatal(err)
	}
	return fd
}

func portOf(ln *net.TCPListener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }

// unloaded is a world without a datapath, and a server on its node, which no
// enrolled pod reaches but by ztunnel.
func unloaded(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if err := errors.Join(w.d.Unpin(), w.d.Close()); err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} { // veths come later
		ln, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(at, 8080), nil)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, ln, "node")
	}
	return w
}

// podOfV1 is a pod of v1 with an app.
func (w *world) podOfV1(v *v1) *testPodNS {
	w.t.Helper()
	p := w.pod()
	for _, six := range []bool{false, true} {
		serve(w.t, p.listen(netip.AddrPortFrom(p.addr(six), 8080)), "app")
	}
	v.enroll(p, 9090)
	return p
}

// breath is between two connects of watch: the machine has other work.
const breath = 5 * time.Millisecond

// watch connects from and to the pods without end. stop returns whoever was
// reached: without a ztunnel that listens, nobody must be.
func (w *world) watch(pods ...*testPodNS) (stop func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var mu sync.Mutex
	var reached []string
	var tried sync.WaitGroup // each at least once
	for _, p := range pods {
		for _, six := range []bool{false, true} {
			at := node4
			if six {
				at = node6
			}
			for _, way := range []struct {
				name string
				from *netns.NS
				to   netip.AddrPort
			}{
				{"left", p.ns, netip.AddrPortFrom(at, 8080)},
				{"arrived", w.ns, netip.AddrPortFrom(p.addr(six), 8080)},
			} {
				tried.Add(1)
				group.Go(func() {
					first := sync.OnceFunc(tried.Done)
					for pause := time.Tick(breath); ctx.Err() == nil; <-pause {
						conn, err := way.from.Dial(ctx, way.to, nil)
						first()
						if err != nil {
							continue
						}
						conn.Close()
						mu.Lock()
						reached = append(reached, fmt.Sprintf("%s: %v", way.name, way.to))
						mu.Unlock()
					}
				})
			}
		}
	}
	return func() []string {
		tried.Wait()
		cancel()
		group.Wait()
		return reached
	}
}

// wantOnlyOurs fails the test unless each hook has one program, no layout but
// ours is there, and the pods are enrolled again and steered.
func (w *world) wantOnlyOurs(pods ...*testPodNS) {
	w.t.Helper()
	if entries, err := os.ReadDir(w.opts.BPFFS); err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(w.d.pins.dir) {
		w.t.Errorf("layouts: %v, %v", entries, err)
	}
	cgroup, err := os.Open(w.opts.Cgroup)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cgroup.Close()
	for _, a := range w.d.anchors {
		w.wantOneProgram(a.name, int(cgroup.Fd()), a.at)
	}
	for _, p := range pods {
		_ = p.ns.Fd(func(fd int) error {
			w.wantOneProgram("sk_lookup", fd, ebpf.AttachSkLookup)
			return nil
		})
		p.enroll(w.d, 9090)
		p.serveAll()
		for _, six := range []bool{false, true} {
			at := node4
			if six {
				at = node6
			}
			wantServer(w.t.(*testing.T), p.ns, netip.AddrPortFrom(at, 8080), "outbound")
			wantServer(w.t.(*testing.T), w.ns, netip.AddrPortFrom(p.addr(six), 8080), "plaintext")
		}
	}
	w.verify()
}

// wantOneProgram waits for a while: the kernel lets go of a link whose pin was removed when RCU
// and one of its workers have come to it, which takes seconds where many want the processors.
func (w *world) wantOneProgram(name string, target int, at ebpf.AttachType) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		there, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: at})
		if err == nil && len(there.Programs) == 1 {
			return
		}
		if err != nil || time.Now().After(end) {
			w.t.Errorf("%s: %d programs, %v; want one", name, len(there.Programs), err)
			return
		}
	}
}
