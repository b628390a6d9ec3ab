// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// turnsOf is turns of a node with some processors.
func turnsOf(processors int, long time.Duration) *turns {
	return &turns{most: 2 * processors, ofPod: processors, long: long}
}

func TestAPodWithManyConnectionsLeavesTurnsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := turnsOf(2, time.Hour)
		noisy, quiet := of.pod(), of.pod()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begun := make(chan *turn, 100)
		for range 100 {
			go func() { begun <- noisy.take(ctx) }()
		}
		synctest.Wait()
		if n := len(begun); n != 2 {
			t.Fatalf("of 100 connections of a pod %d are begun at once, want 2", n)
		}
		for range 10 { // each of the quiet pod's finds a turn, without a wait
			first, second := quiet.take(ctx), quiet.take(ctx)
			first.end()
			second.end()
		}
		if n := len(begun); n != 2 {
			t.Fatalf("the noisy pod has %d turns, want still 2: the quiet one's are not its own", n)
		}
		for n := 2; n < 100; n++ {
			(<-begun).end()
			synctest.Wait()
		}
		for range 2 {
			last := <-begun
			last.end()
			last.end() // a turn ends once
		}
		if len(of.taken) != 0 || len(of.waiting) != 0 || noisy.taken != 0 || quiet.taken != 0 {
			t.Errorf("%d turns are taken and %d waited for when all have ended", len(of.taken), len(of.waiting))
		}
	})
}

func TestThePodWithTheFewestTurnsGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := &turns{most: 3, ofPod: 3, long: time.Hour}
		noisy, quiet, other := of.pod(), of.pod(), of.pod()
		var held [3]*turn
		for i := range held {
			held[i] = noisy.take(t.Context())
		}
		order := make(chan *podTurns, 3)
		for _, pod := range []*podTurns{noisy, quiet, other} { // the noisy one comes first
			go func() {
				pod.take(t.Context())
				order <- pod
			}()
			synctest.Wait()
		}
		held[0].end()
		if next := <-order; next != quiet {
			t.Error("the next turn is the noisy pod's, which has two")
		}
		held[1].end()
		if next := <-order; next != other {
			t.Error("of two without turns it was not the first to come that went first")
		}
		held[2].end()
		if next := <-order; next != noisy {
			t.Error("the noisy pod got no turn, though nobody else waits")
		}
	})
}

func TestATurnThatWaitsForSomethingCountsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := turnsOf(1, turnLong).pod()
		waits := pod.take(t.Context()) // for an app that does not answer, say
		began := time.Now()
		pod.take(t.Context()).end()
		if took := time.Since(began); took != turnLong {
			t.Errorf("the next turn came after %v, want %v", took, turnLong)
		}
		waits.end() // late, it takes nothing from others
		if pod.taken != 0 {
			t.Errorf("the pod has %d turns", pod.taken)
		}
	})
}

func TestTheEndWaitsForNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := turnsOf(1, time.Hour)
		pod := of.pod()
		held := pod.take(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan *turn)
		go func() { done <- pod.take(ctx) }()
		synctest.Wait()
		cancel()
		if turn := <-done; turn != nil || len(of.waiting) != 0 {
			t.Errorf("got a turn, %v, and %d wait", turn, len(of.waiting))
		}
		held.end()
	})
}

// The questions of a pod's connections stand still; another pod's are served meanwhile.
func TestConnectionsThatBeginOfOnePodHoldNobodyUp(t *testing.T) {
	budget := budgetOf(1000, 100)
	budget.turns = turnsOf(2, time.Hour)
	registry := registryOf(meshOf(1, 1))
	noisy, quiet := newBench(t, registry, "db"), newBench(t, registry, "web")
	noisy.Share, quiet.Share = budget.Share("shop/db"), budget.Share("shop/web")
	outside := netip.MustParseAddrPort("192.0.2.1:80")
	echoes := netip.AddrPortFrom(legacyAddr, echo(t, legacyAddr))
	var asked atomic.Int64
	goOn := make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release() // or the end would wait for them
	noisy.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) {
		asked.Add(1)
		<-goOn
		return outside, nil
	}
	quiet.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return outside, nil }
	for _, b := range []*bench{noisy, quiet} {
		direct := b.Direct
		b.Direct = func(ctx context.Context, from netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
			return direct(ctx, from, echoes)
		}
	}
	loud := noisy.serve(dbAddr, Outbound{noisy.Pod}.Serve)
	soft := quiet.serve(webAddr, Outbound{quiet.Pod}.Serve)

	var waiting []*net.TCPConn
	for range 20 {
		conn := connect(t, dbAddr, loud)
		send(t, conn, "hello")
		waiting = append(waiting, conn)
	}
	eventually(t, "the noisy pod has its turns", func() bool { return asked.Load() == 2 })
	for range 5 {
		conn := connect(t, webAddr, soft)
		send(t, conn, "hello")
		expect(t, conn, "hello")
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d connections of the noisy pod are begun at once, want 2", n)
	}
	release()
	for _, conn := range waiting { // none was refused
		expect(t, conn, "hello")
	}
}
