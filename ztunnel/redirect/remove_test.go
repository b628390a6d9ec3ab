// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPinsAreRemovedOnceNobodyIsSteered(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	if err := Remove(w.opts.BPFFS); !errors.Is(err, ErrLocked) {
		t.Errorf("beside a ztunnel: %v, want ErrLocked", err)
	}
	p.s.Listeners.Close()
	w.d.Close()

	before := pinned(t, w.opts.BPFFS)
	if err := Remove(w.opts.BPFFS); err == nil || !strings.Contains(err.Error(), "1 pods of this node are steered") {
		t.Errorf("with a pod that is steered: %v", err)
	}
	if after := pinned(t, w.opts.BPFFS); len(after) != len(before) {
		t.Errorf("a refusal left %q of %q", after, before)
	}
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)

	w.d = load(t, w.opts)
	if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie()), w.d.Unroute(p.ns)); err != nil {
		t.Fatal(err)
	}
	w.d.Close()
	for range 2 { // the second time there is nothing
		if err := Remove(w.opts.BPFFS); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(w.opts.BPFFS); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
	wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "app")
}

// It is killed when the pins of pods are gone, and not yet those of maps and programs.
func TestARemovalThatWasInterruptedIsFinishedByTheNext(t *testing.T) {
	w := newWorld(t)
	p := w.d.pins
	w.d.Close()
	if err := os.RemoveAll(p.pods); err != nil {
		t.Fatal(err)
	}
	if err := Remove(w.opts.BPFFS); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(w.opts.BPFFS); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestWhatIsNotOursIsNotRemoved(t *testing.T) {
	w := newWorld(t)
	w.d.Close()
	if err := os.Mkdir(w.opts.BPFFS+"/others", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(w.opts.BPFFS); err == nil || !strings.Contains(err.Error(), "others is none of ours") {
		t.Errorf("%v", err)
	}
	if len(pinned(t, w.opts.BPFFS)) == 0 {
		t.Error("a refusal removed pins")
	}
}
