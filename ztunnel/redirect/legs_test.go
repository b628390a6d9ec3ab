// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// leg is the nth of a netns.
func leg(cookie netns.Cookie, n int) meshFlow {
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), 1024)
	return wireFlow(cookie, from, netip.MustParseAddrPort("10.2.0.1:80"))
}

// hog begins legs of a netns until it may not, and returns how many it got.
func hog(t *testing.T, l *legs, cookie netns.Cookie) (n int) {
	t.Helper()
	for ; ; n++ {
		err := l.begin(leg(cookie, n))
		if errors.Is(err, unix.ENOBUFS) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A pod whose app accepts nothing must not keep the others from theirs.
func TestOnePodTakesNoMoreThanItsShareOfLegs(t *testing.T) {
	l := &legs{room: 1000}
	if n := hog(t, l, 1); n != 500 {
		t.Errorf("one pod got %d legs of 1000", n)
	}
	if n := hog(t, l, 2); n != 250 {
		t.Errorf("the second got %d of the 500 that were left", n)
	}
	if n := hog(t, l, 3); n != 125 {
		t.Errorf("the third got %d of the 250 that were left", n)
	}
	err := l.begin(leg(1, 999))
	if err == nil || !strings.Contains(err.Error(), "the pod has 500 connections to its app under way, which is its share of 1000") {
		t.Errorf("one more: %v", err)
	}
	if err := l.begin(leg(4, 1)); err != nil {
		t.Errorf("a pod with none: %v", err)
	}
	if err := l.begin(leg(4, 1)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a leg that is taken: %v", err)
	}
	for n := range 500 {
		l.abort(leg(1, n))
		l.abort(leg(1, n)) // again
	}
	if err := l.begin(leg(1, 999)); err != nil {
		t.Errorf("after they ended: %v", err)
	}
	if l.held[1] != 1 || len(l.open) != 250+125+1+1 {
		t.Errorf("%d legs are counted, the first pod's %d", len(l.open), l.held[1])
	}
}

func TestTheShareIsOfTheMapAndEndsADialAsTooFew(t *testing.T) {
	w := newWorld(t)
	p, other := w.enrolled(), w.enrolled()
	if room := w.d.legs.room; room != int(w.d.mesh.Inner.MaxEntries()) || room == 0 {
		t.Errorf("room for %d legs, the map has %d", room, w.d.mesh.Inner.MaxEntries())
	}
	w.d.legs.room = 8
	if n := hog(t, &w.d.legs, p.ns.Cookie()); n != 4 {
		t.Fatalf("got %d legs of 8", n)
	}
	_, err := w.d.DialInner(p.ns)(t.Context(), netip.MustParseAddrPort("10.9.9.9:40000"), netip.AddrPortFrom(p.v4, 8080))
	if !errors.Is(err, unix.ENOBUFS) || !strings.Contains(err.Error(), "its share") {
		t.Errorf("dial beyond the share: %v", err)
	}
	serve(t, other.listen(netip.AddrPortFrom(other.v4, 8080)), "app")
	conn, err := w.d.DialInner(other.ns)(t.Context(), netip.MustParseAddrPort("10.9.9.9:40000"), netip.AddrPortFrom(other.v4, 8080))
	if err != nil {
		t.Fatalf("another pod's: %v", err)
	}
	conn.Close()
}

func TestAPodBeyondTheLastEntryIsToldSo(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	for i := range uint64(w.d.mesh.Pods.MaxEntries()) {
		if err := w.d.mesh.Pods.Put(1<<40+i, meshPod{}); err != nil {
			t.Fatal(err)
		}
	}
	p.s = Sandbox{NS: p.ns, Addrs: []netip.Addr{p.v4, p.v6}}
	lns, err := w.d.Listen(t.Context(), p.ns, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lns.Close()
	p.s.Listeners = lns
	if err := errors.Join(w.d.Route(p.ns, p.s.Addrs), w.d.SteerInbound(p.s)); err != nil {
		t.Fatal(err)
	}
	err = w.d.SteerOutbound(p.s)
	if !errors.Is(err, unix.ENOBUFS) || !strings.Contains(err.Error(), "map pods is full: the node has all 4096 entries that Culvert allows") {
		t.Errorf("the pod beyond the last: %v", err)
	}
}
