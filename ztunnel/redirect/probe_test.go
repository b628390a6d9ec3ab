// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func TestOnlyKubeletsProbesOfDeclaredPortsReachTheApp(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled(8080)
	p.serveAll()
	for _, at := range []string{"0.0.0.0:8080", "[::]:8080", "0.0.0.0:9090", "[::]:9090"} {
		serve(t, p.listen(netip.MustParseAddrPort(at)), "app")
	}
	if err := os.Mkdir(filepath.Join(w.cgroup, "kubelet", "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, cgroup, ns string
		port             uint16
		want             string
	}{
		{"kubelet, declared port", "kubelet", w.path, 8080, "app"},
		{"below kubelet, as the containers of k3s", "kubelet/child", w.path, 8080, "plaintext"},
		{"kubelet, other port", "kubelet", w.path, 9090, "plaintext"},
		{"kubelet, HBONE port", "kubelet", w.path, hbonePort, "hbone"},
		{"other process of the node", "pods", w.path, 8080, "plaintext"},
		{"process of the root cgroup", ".", w.path, 8080, "plaintext"},
	} {
		for _, six := range []bool{false, true} {
			got, err := w.probeFrom(tc.cgroup, tc.ns, netip.AddrPortFrom(p.addr(six), tc.port))
			if who, _, _ := strings.Cut(got, " "); err != nil || who != tc.want {
				t.Errorf("%s, %s: %q, %v; want %s", tc.name, family(six), got, err, tc.want)
			}
		}
	}
	if n := count(t, w.d.mesh.Bypass); n != 0 {
		t.Errorf("%d probes left in the map bypass", n)
	}

	if err := w.d.UpdateProbePorts(p.ns.Cookie(), []uint16{9090}); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]string{8080: "plaintext", 9090: "app"} {
		got, err := w.probeFrom("kubelet", w.path, netip.AddrPortFrom(p.v4, port))
		if who, _, _ := strings.Cut(got, " "); err != nil || who != want {
			t.Errorf("after the update, port %d: %q, %v; want %s", port, got, err, want)
		}
	}
}

// kubelet's cgroup counts in the node's netns only: what it runs in a pod's
// netns is the pod's.
func TestKubeletInAPodsNetnsIsSteered(t *testing.T) {
	w := newWorld(t)
	server, client := w.enrolled(8080), w.enrolled()
	server.serveAll()
	client.serveAll()
	got, err := w.probeFrom("kubelet", client.path, netip.AddrPortFrom(server.v4, 8080))
	if who, _, _ := strings.Cut(got, " "); err != nil || who != "outbound" {
		t.Errorf("%q, %v; want outbound", got, err)
	}
}

func TestProbeTupleIsOfNoUseToOthers(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled(8080, 8081)
	p.serveAll()
	to := netip.AddrPortFrom(p.v4, 8080)
	serve(t, p.listen(to), "app")

	// Refused: the prober's socket is closed, and its entry with it.
	if got, err := w.probeFrom("kubelet", w.path, netip.AddrPortFrom(p.v4, 8081)); err == nil || !strings.Contains(got, "refused") {
		t.Errorf("probe of a closed port: %q, %v", got, err)
	}
	if n := count(t, w.d.mesh.Bypass); n != 0 {
		t.Errorf("%d entries left of a refused probe", n)
	}

	// Published and never used: stale after ten seconds.
	flow := wireFlow(p.ns.Cookie(), netip.AddrPortFrom(node4, 34567), to)
	for _, tc := range []struct {
		age  time.Duration
		want string
	}{{11 * time.Second, "plaintext"}, {9 * time.Second, "app"}} {
		if err := w.d.mesh.Bypass.Put(flow, monotonic()-uint64(tc.age)); err != nil {
			t.Fatal(err)
		}
		wantServer(t, w.ns, to, tc.want, bindTo(node4, 34567))
	}
	// Used once: the next from the same port, even over TIME_WAIT, is steered.
	wantServer(t, w.ns, to, "plaintext", bindTo(node4, 34567))
}

func TestKubeletsCgroupMustSetItApart(t *testing.T) {
	w := newWorld(t)
	mount := filepath.Dir(w.cgroup)
	for name, tc := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"the v2 root":       {func(o *Options) { o.KubeletCgroup, o.Cgroup = mount, mount }, "every process of the node would pass for kubelet"},
		"above the pods":    {func(o *Options) { o.KubeletCgroup = mount }, "every process of the node would pass for kubelet"},
		"the pods' own":     {func(o *Options) { o.KubeletCgroup = w.cgroup }, "every process of the node would pass for kubelet"},
		"not below Cgroup":  {func(o *Options) { o.Cgroup = filepath.Join(w.cgroup, "pods") }, "would not be seen"},
		"not a cgroup":      {func(o *Options) { o.KubeletCgroup = t.TempDir() }, "is not on a cgroup2 file system: cgroup2 is mounted on " + mount},
		"-cgroup is none":   {func(o *Options) { o.Cgroup = t.TempDir() }, "is not on a cgroup2 file system: cgroup2 is mounted on " + mount},
		"without a netns":   {func(o *Options) { o.HostNetns = 0 }, "no HostNetns with KubeletCgroup"},
		"no bpffs":          {func(o *Options) { o.BPFFS = filepath.Join(t.TempDir(), "x") }, "is not on a bpf file system: mount -t bpf"},
		"nothing, required": {func(o *Options) { *o = Options{} }, "Cgroup is required"},
	} {
		opts := w.opts
		tc.change(&opts)
		d, err := Load(opts)
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
}

func count(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}
