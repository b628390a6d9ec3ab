// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// probed is a pod with an app on its one probe port.
func (w *world) probed() *testPodNS {
	w.t.Helper()
	p := w.enrolled(8080)
	p.serveAll()
	for _, six := range []bool{false, true} {
		serve(w.t, p.listen(netip.AddrPortFrom(p.addr(six), 8080)), "app")
	}
	return p
}

// wantProbe fails the test unless whoever connects from the cgroup reaches the
// server of that name.
func (p *testPodNS) wantProbe(when, cgroup, name string) {
	p.t.Helper()
	for _, six := range []bool{false, true} {
		got, err := p.probeFrom(cgroup, p.world.path, netip.AddrPortFrom(p.addr(six), 8080))
		if who, _, _ := strings.Cut(got, " "); err != nil || who != name {
			p.t.Errorf("%s, from %s, %s: %q, %v; want %s", when, cgroup, family(six), got, err, name)
		}
	}
}

func (w *world) verify() {
	w.t.Helper()
	if repaired, err := w.d.Verify(w.t.Context()); err != nil || len(repaired) > 0 {
		w.t.Errorf("Verify: %q, %v", repaired, err)
	}
}

func TestRestartedKubeletIsKnownByItsNewCgroup(t *testing.T) {
	w := newWorld(t)
	p := w.probed()
	p.wantProbe("at first", "kubelet", "app")
	dir := filepath.Join(w.cgroup, "kubelet")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	w.verify()
	if err := w.d.Kubelet(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("while there is no kubelet: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.wantProbe("before anyone looked", "kubelet", "plaintext")
	w.verify()
	if err := w.d.Kubelet(); err != nil {
		t.Error(err)
	}
	p.wantProbe("after the restart", "kubelet", "app")
	p.wantProbe("after the restart", "pods", "plaintext")
}

// A process that stayed behind in the former cgroup is nobody's kubelet.
func TestFormerCgroupOfTheKubeletCountsNoMore(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		if err := os.Mkdir(filepath.Join(o.Cgroup, "second"), 0o755); err != nil {
			t.Fatal(err)
		}
		o.KubeletCgroup = filepath.Join(t.TempDir(), "kubelet.service")
		if err := os.Symlink(filepath.Join(o.Cgroup, "kubelet"), o.KubeletCgroup); err != nil {
			t.Fatal(err)
		}
	})
	p := w.probed()
	p.wantProbe("at first", "kubelet", "app")
	p.wantProbe("at first", "second", "plaintext")
	if err := errors.Join(os.Remove(w.opts.KubeletCgroup), os.Symlink(filepath.Join(w.cgroup, "second"), w.opts.KubeletCgroup)); err != nil {
		t.Fatal(err)
	}
	w.verify()
	p.wantProbe("after the restart", "second", "app")
	p.wantProbe("after the restart", "kubelet", "plaintext")
}

func TestZtunnelMayStartBeforeTheKubelet(t *testing.T) {
	var late string
	w := newWorld(t, func(o *Options) {
		late = filepath.Join(o.Cgroup, "system.slice", "kubelet.service")
		o.KubeletCgroup = late
	})
	if err := w.d.Kubelet(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a kubelet: %v", err)
	}
	p := w.probed()
	p.wantProbe("without a kubelet", "kubelet", "plaintext")
	if err := os.MkdirAll(late, 0o755); err != nil {
		t.Fatal(err)
	}
	w.verify()
	p.wantProbe("once it is there", filepath.Join("system.slice", "kubelet.service"), "app")
	p.wantProbe("once it is there", "kubelet", "plaintext")
}

func TestCgroupThatHoldsThePodsNeverBecomesTheKubelets(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.KubeletCgroup = filepath.Join(t.TempDir(), "kubelet.service")
		if err := os.Symlink(filepath.Join(o.Cgroup, "kubelet"), o.KubeletCgroup); err != nil {
			t.Fatal(err)
		}
	})
	p := w.probed()
	if err := errors.Join(os.Remove(w.opts.KubeletCgroup), os.Symlink(w.cgroup, w.opts.KubeletCgroup)); err != nil {
		t.Fatal(err)
	}
	w.verify()
	if err := w.d.Kubelet(); err == nil || !strings.Contains(err.Error(), "every process of the node would pass for kubelet") {
		t.Errorf("the kubelet's cgroup holds the pods: %v", err)
	}
	p.wantProbe("now", ".", "plaintext")
	p.wantProbe("now", "kubelet", "plaintext")
}
