// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
)

// budgetOf is a Budget of a size that nothing changes.
func budgetOf(descriptors, dials int64) *Budget {
	return &Budget{
		descriptors: resource{name: "descriptors", Resource: quota.New(descriptors, leastPart)},
		dials:       resource{name: "dials under way", Resource: quota.New(dials, leastPart)},
	}
}

// takeAll takes what a pod gets.
func takeAll(p *Part) (n int) {
	for p.Take() == nil {
		n++
	}
	return n
}

func TestAPodGetsNoMoreThanWhatIsLeftForTheOthers(t *testing.T) {
	b := budgetOf(1000, 0)
	first := b.Share("shop/greedy").Descriptors
	if n := takeAll(first); n != 800 {
		t.Errorf("the first pod got %d of 1000, want four fifths", n)
	}
	if err := first.Take(); wordOf(err) != Limit || !strings.Contains(err.Error(), "pod shop/greedy has 800 descriptors") {
		t.Errorf("refused with %s, %v", wordOf(err), err)
	}
	if n := takeAll(b.Share("shop/second").Descriptors); n != 160 {
		t.Errorf("the second got %d, want four fifths of the rest", n)
	}
	for range 20 { // many more, and each gets what is left for it
		takeAll(b.Share("shop/more").Descriptors)
	}
	if used := b.descriptors.Used(); used > 1000 {
		t.Errorf("%d of 1000 are used", used)
	}
	// The greedy one lets go of some: they are the others' now as much as its.
	for range 640 {
		first.Give()
	}
	late := b.Share("shop/late").Descriptors
	if n := takeAll(late); n < 400 {
		t.Errorf("a late pod got %d of the 640 that came back", n)
	}
	if n := takeAll(first); n > 150 {
		t.Errorf("the greedy pod got %d of them again", n)
	}
}

func TestThePodThatIsOverItsShareIsRefusedAndNamed(t *testing.T) {
	budget := budgetOf(80, 100)
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	b.Share = budget.Share("shop/db")
	dial := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return dial(ctx) }
	to := b.serve(dbAddr, Passthrough{b.Pod}.Serve)
	neighbour := newBench(t, b.Registry, "web")
	neighbour.Share = budget.Share("shop/web")
	outside := netip.MustParseAddrPort("192.0.2.1:80")
	neighbour.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return outside, nil }
	echoes := netip.AddrPortFrom(legacyAddr, echo(t, legacyAddr))
	direct := neighbour.Direct
	neighbour.Direct = func(ctx context.Context, from netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
		return direct(ctx, from, echoes)
	}
	from := neighbour.serve(webAddr, Outbound{neighbour.Pod}.Serve)

	var open []*net.TCPConn
	refused := 0
	client := legacyAddr
	for range 50 {
		client = client.Next() // else the peer is over its share before the pod
		conn, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 0)), net.TCPAddrFromAddrPort(to))
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			if _, err = io.WriteString(conn, "x"); err == nil {
				_, err = io.ReadFull(conn, make([]byte, 1))
			}
		}
		switch {
		case err == nil:
			open = append(open, conn)
		case errors.Is(err, syscall.ECONNRESET):
			refused++
			record := b.record(Limit)
			has(t, record, map[string]any{"dst.workload": "db-0"})
			if got, _ := record["error"].(string); !strings.Contains(got, "pod shop/db has ") {
				t.Errorf("error %q", got)
			}
		default:
			t.Fatal(err)
		}
	}
	if len(open) != 32 || refused != 18 { // two descriptors each
		t.Errorf("%d are open and %d refused, want 32 and 18", len(open), refused)
	}
	for range 7 { // the neighbour has none yet
		conn := connect(t, webAddr, from)
		send(t, conn, "hello")
		expect(t, conn, "hello")
	}
	for _, conn := range open { // unharmed
		send(t, conn, "y")
		expect(t, conn, "y")
		conn.Close()
		b.record(OK)
	}
	eventually(t, "what ended is given back", func() bool { return b.Share.Descriptors.quota.Held() == 0 })
	again := connect(t, legacyAddr, to)
	send(t, again, "hello")
	expect(t, again, "hello")
}

func TestAPeerGetsNoMoreOfAPodThanWhatIsLeftForOthers(t *testing.T) {
	b := budgetOf(1000, 0)
	pod := b.Share("shop/db").Descriptors
	takeAllFor := func(who peer) (n int) {
		for pod.TakeFor(who) == nil {
			n++
		}
		return n
	}
	if n := takeAllFor(caller); n != 640 {
		t.Errorf("the first peer got %d of the pod's 800, want four fifths", n)
	}
	err := pod.TakeFor(caller)
	if want := caller.String() + " has 640 descriptors of pod shop/db"; wordOf(err) != Limit || !strings.Contains(err.Error(), want) {
		t.Errorf("refused with %s, %v; want %q", wordOf(err), err, want)
	}
	for range 60 { // what the pod's app opens
		if err := pod.Take(); err != nil {
			t.Fatal(err)
		}
	}
	if n := takeAllFor(bystand); n != 80 {
		t.Errorf("another peer got %d, want four fifths of the 100 that are left", n)
	}
	for range 640 {
		pod.GiveFor(caller)
	}
	for range 80 {
		pod.GiveFor(bystand)
	}
	if held := pod.quota.Held(); held != 60 || len(pod.peers) != 0 {
		t.Errorf("%d are held, and %d peers remembered", held, len(pod.peers))
	}
}

// What arrives from a peer leaves room for what the pod opens itself, and for others.
func TestAPeerThatIsOverItsShareOfAPodIsRefusedAndNamed(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	b.Share = budgetOf(150, 100).Share("shop/db")
	dial := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return dial(ctx) }
	to := b.serve(dbAddr, Passthrough{b.Pod}.Serve)
	var open []*net.TCPConn
	for range 48 { // two descriptors each, and 96 are four fifths of four fifths
		conn := connect(t, legacyAddr, to)
		send(t, conn, "x")
		expect(t, conn, "x")
		open = append(open, conn)
	}
	expectRefused(t, legacyAddr, to)
	record := b.record(Limit)
	if got, _ := record["error"].(string); !strings.Contains(got, legacyAddr.String()+" has 96 descriptors of pod shop/db") {
		t.Errorf("error %q", got)
	}
	if err := b.Share.Descriptors.Take(); err != nil {
		t.Errorf("the pod's app: %v", err)
	}
	b.Share.Descriptors.Give()
	other := connect(t, legacyAddr.Next(), to)
	send(t, other, "x")
	expect(t, other, "x")
	for _, conn := range append(open, other) {
		conn.Close()
		b.record(OK)
	}
	eventually(t, "what ended is given back", func() bool { return b.Share.Descriptors.quota.Held() == 0 })
}

func TestDialsThatWaitAreBoundedByPod(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "web")
	budget := budgetOf(10000, 60)
	b.Share = budget.Share("shop/web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return netip.MustParseAddrPort("192.0.2.1:80"), nil }
	hang := make(chan struct{})
	b.Direct = func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
		<-hang
		return nil, syscall.ETIMEDOUT
	}
	to := b.serve(webAddr, Outbound{b.Pod}.Serve)
	for range 68 {
		conn, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(webAddr, 0)), net.TCPAddrFromAddrPort(to))
		if err == nil { // else it was reset at once
			t.Cleanup(func() { conn.Close() })
		}
	}
	for range 20 { // 48 of 60 wait, the rest is refused
		has(t, b.record(Limit), map[string]any{"src.workload": "web-0"})
	}
	if err := budget.Share("shop/other").dials.Take(); err != nil {
		t.Errorf("another pod's dial: %v", err)
	}
	close(hang)
	for range 48 {
		b.record(Dial)
	}
	if held := b.Share.dials.quota.Held(); held != 0 {
		t.Errorf("%d dials are still counted", held)
	}
}

func TestTheBudgetIsWhatTheLimitLeaves(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	size, used := NewBudget().Stats()
	if got := uint64(size["descriptors"]); got > limit.Cur-reserved(limit.Cur) || got < limit.Cur/2 {
		t.Errorf("%d of %d descriptors", got, limit.Cur)
	}
	if size["dials"] == 0 || size["unsent"] == 0 || used["dials"] != 0 || used["descriptors"] != 0 {
		t.Errorf("size %v, used %v", size, used)
	}
}
