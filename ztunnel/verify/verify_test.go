// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

const mark = "culvert-verify-0123456789abcdef"

var ends = Pair{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")}

// world is a netns that holds both ends, and an app at the second that takes what is said.
func world(t *testing.T, pair Pair) (trials *Trials, app netip.AddrPort) {
	t.Helper()
	env.Need(t, env.Netns)
	path := env.NewNetns(t)
	var ln net.Listener
	err := env.InNetns(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for _, a := range pair {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: 2}); err != nil { // no duplicate address detection
				return err
			}
		}
		if ln, err = net.Listen("tcp", netip.AddrPortFrom(pair[1], 0).String()); err != nil {
			return err
		}
		return awaitRoute(pair, ln.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
	trials = New(Config{Host: path, Pod: func(string) (*netns.NS, error) { return netns.Open(path) }})
	return trials, ln.Addr().(*net.TCPAddr).AddrPort()
}

// awaitRoute waits until both ends reach each other: the kernel makes a route to an IPv6
// address some time after the address.
func awaitRoute(pair Pair, app string) (err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		var conn net.Conn
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: pair[0].AsSlice()}}
		if conn, err = d.Dial("tcp", app); err == nil {
			return conn.Close()
		}
		<-tick.C
	}
	return err
}

// Where a mark is plaintext it is seen, and where another is said it is not: the watch looks
// for its own.
func TestAMarkInPlaintextIsSeen(t *testing.T) {
	for _, pair := range []Pair{ends, {netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")}} {
		trials, app := world(t, pair)
		own := Pair{pair[1], pair[1]} // a connection to oneself on lo comes from the same address
		if _, err := trials.Begin(Request{Pod: "p", Pair: own, Mark: mark}); err == nil || !strings.HasPrefix(err.Error(), "pair: ") {
			t.Errorf("a pair of one address: %v", err)
		}
		name, err := trials.Begin(Request{Pod: "p", Pair: pair, Mark: mark})
		if err != nil {
			t.Fatal(err)
		}
		said(t, trials, pair, app, mark)
		if arrived, err := trials.Await(t.Context(), name); err != nil || !arrived {
			t.Errorf("%v: arrived %v, %v", pair, arrived, err)
		}
		f, err := trials.End(name)
		if err != nil || !f.Node.Control || f.Pod == nil || !f.Pod.Control || len(f.Node.Devices) != 1 {
			t.Fatalf("%v: %+v, %v", pair, f, err)
		}
		d := f.Node.Devices[0]
		if d.Name != "lo" || !d.Loopback || d.Packets == 0 || d.Tunnel != 0 || d.Marked != 1 || d.First == nil || d.First.To != app || d.First.From.Addr() != pair[0] {
			t.Errorf("%v: %+v", pair, d)
		}
		if _, err := trials.End(name); err == nil {
			t.Error("a trial ends twice")
		}

		// Between an app and ztunnel, and behind an address that is translated, it has other
		// addresses.
		elsewhere := Pair{pair[0], pair[1].Next()}
		if name, err = trials.Begin(Request{Pair: elsewhere, Mark: mark}); err != nil {
			t.Fatal(err)
		}
		said(t, trials, pair, app, mark)
		if f, err := trials.End(name); err != nil || len(f.Node.Devices) != 1 || f.Node.Devices[0].Packets != 0 || f.Node.Devices[0].Marked != 1 || f.Node.Devices[0].First.To != app {
			t.Errorf("%v: %+v, %v", elsewhere, f, err)
		}

		name, err = trials.Begin(Request{Pair: pair, Mark: "another-" + mark})
		if err != nil {
			t.Fatal(err)
		}
		said(t, trials, pair, app, mark)
		if f, err := trials.End(name); err != nil || len(f.Node.Devices) != 1 || f.Node.Devices[0].Marked != 0 || f.Pod != nil {
			t.Errorf("%v: %+v, %v", pair, f, err)
		}
	}
}

// said connects from the first end, which an app does by an address that it binds, and waits
// until all is acknowledged.
func said(t *testing.T, trials *Trials, pair Pair, app netip.AddrPort, text string) {
	t.Helper()
	err := env.InNetns(trials.cfg.Host, func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: pair[0].AsSlice()}}
		conn, err := d.Dial("tcp", app.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, text); err != nil {
			return err
		}
		conn.(*net.TCPConn).CloseWrite()
		_, err = io.Copy(io.Discard, conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestATrialSendsOnceAndSaysHowTheConnectionEnded(t *testing.T) {
	trials, app := world(t, ends)
	name, err := trials.Begin(Request{Pod: "p", Pair: ends, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	sent, err := trials.Send(t.Context(), name, app)
	if err != nil || sent.Error != "" || sent.To != app || !sent.From.IsValid() {
		t.Errorf("%+v, %v", sent, err)
	}
	if _, err := trials.Send(t.Context(), name, app); err == nil {
		t.Error("it sends twice")
	}
	if f, err := trials.End(name); err != nil || f.Ended != "" {
		t.Errorf("%+v, %v", f, err)
	}

	name, err = trials.Begin(Request{Pod: "p", Pair: ends, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	if sent, err := trials.Send(t.Context(), name, netip.AddrPortFrom(ends[1], 1)); err != nil || !strings.Contains(sent.Error, "refused") {
		t.Errorf("%+v, %v", sent, err)
	}
	if _, err := trials.End(name); err != nil {
		t.Error(err)
	}
}

func TestTrialsAreFewAndAskedForRight(t *testing.T) {
	trials, _ := world(t, ends)
	for _, r := range []Request{{Pair: ends, Mark: "short"}, {Pair: ends, Mark: strings.Repeat("x", 257)}, {Mark: mark}, {Pair: Pair{ends[0], netip.MustParseAddr("fd77::2")}, Mark: mark}} {
		if _, err := trials.Begin(r); err == nil {
			t.Errorf("%+v is begun", r)
		}
	}
	var names []string
	for range mayRun {
		name, err := trials.Begin(Request{Pair: ends, Mark: mark})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if _, err := trials.Begin(Request{Pair: ends, Mark: mark}); err == nil || !strings.Contains(err.Error(), "ask again") {
		t.Errorf("beyond what runs at a time: %v", err)
	}
	if _, err := trials.Send(t.Context(), names[0], netip.AddrPortFrom(ends[1], 80)); err == nil || !strings.HasPrefix(err.Error(), "pod: ") {
		t.Errorf("sent from no pod: %v", err)
	}
	for _, name := range names {
		if _, err := trials.End(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := trials.Await(t.Context(), names[0]); err == nil {
		t.Error("one that has ended is awaited")
	}
}

// A pod at one end may send as fast as it can: what comes after the end is not looked at, so
// that the trial ends, and gives its place to others.
func TestWhatComesAfterTheEndIsLeftOut(t *testing.T) {
	trials, app := world(t, ends)
	name, err := trials.Begin(Request{Pair: ends, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	found, err := trials.find(name)
	if err != nil {
		t.Fatal(err)
	}
	w := found.node
	queued := func() (packets uint32) { // since it was asked before
		_ = w.raw.Control(func(fd uintptr) {
			if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil {
				t.Error(err)
			} else {
				packets = st.Packets
			}
		})
		return packets
	}
	w.mu.Lock() // it looks at packets, and comes to no end
	ended := make(chan error, 1)
	go func() {
		_, err := trials.End(name)
		ended <- err
	}()
	left := false
	for began := time.Now(); !left && time.Since(began) < 20*time.Second; {
		queued()
		said(t, trials, ends, app, mark)
		left = queued() == 0
	}
	w.mu.Unlock()
	if err := <-ended; err != nil || !left {
		t.Errorf("ended: %v; what comes after the end is left out: %v", err, left)
	}
}

// packet4 is TCP over IPv4 between both ends, behind so many bytes of another header.
func packet4(front int, from, to netip.Addr) []byte {
	b := make([]byte, front+40)
	ip := b[front:]
	ip[0], ip[9] = 0x45, 6
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[20:], 4711)
	binary.BigEndian.PutUint16(ip[22:], tunnelPort)
	return b
}

// A pod network may put the packets of pods into others of the nodes.
func TestEncapsulatedPacketsAreFound(t *testing.T) {
	for name, front := range map[string]int{"none": 0, "IPIP": 20, "GRE": 24, "VXLAN": 50, "VXLAN over IPv6": 70, "Geneve with options": 90} {
		s, found := ends.find(packet4(front, ends[1], ends[0]))
		if !found || s.encapsulated != (front > 0) || s.from != netip.AddrPortFrom(ends[1], 4711) || s.to != netip.AddrPortFrom(ends[0], tunnelPort) {
			t.Errorf("%s: %+v, %v", name, s, found)
		}
	}
	if s, found := ends.find(packet4(0, ends[0], netip.MustParseAddr("10.1.0.3"))); found {
		t.Errorf("a packet to another: %+v", s)
	}
}

func FuzzFind(f *testing.F) {
	f.Add(packet4(50, ends[0], ends[1]))
	six := Pair{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")}
	f.Fuzz(func(t *testing.T, data []byte) {
		ends.find(data)
		six.find(data)
	})
}
