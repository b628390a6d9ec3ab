// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// destroy ends the pod's netns, as far as this process can.
func (p *testPodNS) destroy() {
	p.t.Helper()
	p.s.Listeners.Close() // if the test has not
	if err := errors.Join(p.ns.Close(), unix.Unmount(p.path, unix.MNT_DETACH)); err != nil {
		p.t.Fatal(err)
	}
}

// fated waits until the kernel says that of a netns: what was closed in it goes
// a moment later.
func (w *world) fated(cookie netns.Cookie, want fate) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	for {
		got, _ := w.d.pins.fate(cookie)
		if got == want {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			w.t.Fatalf("the kernel says %d of netns %d, want %d", got, cookie, want)
		}
	}
}

func TestReconcileRemovesWhatTheKernelSaysIsGoneAndNothingElse(t *testing.T) {
	w := newWorld(t)
	known, unexplained, dead := w.enrolled(8080), w.enrolled(8080), w.enrolled(8080)
	w.d.Close()
	w.d = load(t, w.opts)
	dead.destroy()
	w.fated(dead.ns.Cookie(), gone)
	left, err := w.d.Reconcile([]netns.Cookie{known.ns.Cookie()})
	if want := []Leftover{{unexplained.ns.Cookie(), unexplained.ns.Inode()}}; err != nil || !slices.Equal(left, want) {
		t.Fatalf("Reconcile: %v, %v; want %v", left, err, want)
	}
	known.serveAll()
	wantServer(t, known.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	unexplained.s.Listeners.Close() // of the run before: now nobody listens
	wantRefused(t, w.ns, netip.AddrPortFrom(unexplained.v4, 8080), nil)
	if n := count(t, w.d.mesh.Pods); n != 2 {
		t.Errorf("%d pods left, want 2", n)
	}

	unexplained.destroy()
	w.fated(unexplained.ns.Cookie(), gone)
	if left, err := w.d.Reconcile([]netns.Cookie{known.ns.Cookie()}); err != nil || len(left) > 0 {
		t.Errorf("Reconcile: %v, %v", left, err)
	}
	known.destroy()
	w.fated(known.ns.Cookie(), gone)
	if left, err := w.d.Reconcile(nil); err != nil || len(left) > 0 {
		t.Errorf("Reconcile: %v, %v", left, err)
	}
	wantEmpty(t, w.d)
}

// A removed pin takes the link along when no process has it: inbound passes, and
// nothing says any more whether the netns lives. Outbound stays refused.
func TestAPodWhosePinIsGoneStaysSteeredOutbound(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.s.Listeners.Close()
	w.d.Close()
	if err := os.Remove(w.d.pins.pod(p.ns.Cookie())); err != nil {
		t.Fatal(err)
	}
	w.d = load(t, w.opts)
	w.fated(p.ns.Cookie(), unknown)
	left, err := w.d.Reconcile(nil)
	if want := []Leftover{{Cookie: p.ns.Cookie()}}; err != nil || !slices.Equal(left, want) {
		t.Errorf("Reconcile: %v, %v; want %v", left, err, want)
	}
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
}

func TestASandboxThatIsLetBeIsRefusedAndNotRepaired(t *testing.T) {
	w := newWorld(t)
	p, other := w.enrolled(), w.enrolled()
	w.d.LetBe(p.ns.Cookie())
	w.d.LetBe(p.ns.Cookie()) // again, as of any that is not known
	p.s.Listeners.Close()
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
		t.Errorf("Verify: %q, %v", repaired, err)
	}
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	other.serveAll()
	wantServer(t, other.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	if yes, known := w.d.Gone(p.ns.Cookie()); yes || !known {
		t.Errorf("a netns that lives is gone: %v, known %v", yes, known)
	}
	p.destroy()
	w.fated(p.ns.Cookie(), gone)
	if yes, known := w.d.Gone(p.ns.Cookie()); !yes || !known {
		t.Errorf("a netns that ended is gone: %v, known %v", yes, known)
	}
}
