// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// What another hand may put in place of ours, each with what it would do.
func TestVerifyRestoresWhatAnotherHandReplaced(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		o.ExcludePorts = []uint16{7777}
	})
	p := w.enrolled(9090)
	p.serveAll()
	node, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, node, "node")
	serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
	stranger := p.listen(netip.MustParseAddrPort("127.0.0.1:0"))
	serve(t, stranger, "stranger")
	pins := newPins(w.opts.BPFFS)
	key := meshListenerKey{Netns: uint64(p.ns.Cookie()), Kind: meshListenerKindLISTENER_PLAINTEXT4}
	for _, tc := range []struct {
		name     string
		harm     func() error
		out, in  string // who is reached meanwhile; nobody
		repaired string
	}{
		{"program of connect4", func() error {
			return update(t, filepath.Join(pins.links, "connect4"), &ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect})
		}, "node", "plaintext", "connect4 ran another program"},
		{"program of sk_lookup", func() error {
			return update(t, pins.pod(p.ns.Cookie()), &ebpf.ProgramSpec{Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup})
		}, "", "app", fmt.Sprintf("sk_lookup of netns %d ran another program", p.ns.Cookie())},
		{"listener", func() error {
			return withFd(stranger, func(fd int) error { return w.d.mesh.Listeners.Put(key, uint64(fd)) })
		}, "outbound", "stranger", fmt.Sprintf("listener %v of netns %d was replaced", p.s.Listeners.Inbound4.Addr(), p.ns.Cookie())},
		{"CIDR added", func() error {
			return w.d.mesh.ExcludedCidrs.Put(wireCIDR(netip.MustParsePrefix("10.77.0.0/16")), uint8(1))
		}, "node", "plaintext", "exclusion of 10.77.0.0/16 was added"},
		{"IPv6 CIDR added", func() error {
			return w.d.mesh.ExcludedCidrs.Put(wireCIDR(netip.MustParsePrefix("fd77::/64")), uint8(1))
		}, "outbound", "plaintext", "exclusion of fd77::/64 was added"},
		{"port added", func() error { return w.d.mesh.ExcludedPorts.Put(wirePort(8080), uint8(1)) },
			"node", "plaintext", "exclusion of port 8080 was added"},
		{"CIDR removed", func() error {
			return w.d.mesh.ExcludedCidrs.Delete(wireCIDR(netip.MustParsePrefix("192.0.2.0/24")))
		}, "outbound", "plaintext", "exclusion of 192.0.2.0/24 was removed"},
		{"port removed", func() error { return w.d.mesh.ExcludedPorts.Delete(wirePort(7777)) },
			"outbound", "plaintext", "exclusion of port 7777 was removed"},
		{"probe port added", func() error {
			return w.d.mesh.ProbePorts.Put(meshPodPort{Netns: uint64(p.ns.Cookie()), Port: wirePort(8080)}, uint8(1))
		}, "outbound", "plaintext", fmt.Sprintf("probe port 8080 of netns %d was added", p.ns.Cookie())},
		{"probe port removed", func() error {
			return w.d.mesh.ProbePorts.Delete(meshPodPort{Netns: uint64(p.ns.Cookie()), Port: wirePort(9090)})
		}, "outbound", "plaintext", fmt.Sprintf("probe port 9090 of netns %d was removed", p.ns.Cookie())},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.harm(); err != nil {
				t.Fatal(err)
			}
			if tc.out == "" {
				wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
			} else {
				wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), tc.out)
			}
			wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), tc.in)
			// An excluded IPv6 CIDR lets out what is not asked for here.
			lets := tc.out != "outbound" || tc.in != "plaintext" || strings.HasPrefix(tc.repaired, "exclusion of fd77")
			if missing := w.d.Missing(p.ns.Cookie()); len(missing) > 0 != lets {
				t.Errorf("Missing: %q", missing)
			}
			if repaired, err := w.d.Verify(t.Context()); err != nil || !slices.Equal(repaired, []string{tc.repaired}) {
				t.Errorf("Verify: %q, %v; want %q", repaired, err, tc.repaired)
			}
			wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
			wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
			if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
				t.Errorf("Verify again: %q, %v", repaired, err)
			}
		})
	}
}

// update has the link at a pin run a program that lets everything pass.
func update(t *testing.T, pin string, spec *ebpf.ProgramSpec) error {
	t.Helper()
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
	spec.License = "GPL"
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Update(prog)
}
