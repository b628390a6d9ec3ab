// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// siege is a Gate of one slot, which handshakes come to at eight pods.
type siege struct {
	*crowd
	ctx   context.Context
	doors []*Door
	all   sync.WaitGroup
}

const (
	wayAndBack = 200 * time.Microsecond
	computing  = 500 * time.Microsecond // of a flight, so the gate takes 1,000 handshakes a second
)

// besieged runs story in a bubble, while attack goes on.
func besieged(t *testing.T, attack, story func(*siege)) {
	synctest.Test(t, func(t *testing.T) {
		s := &siege{crowd: newCrowd(t)}
		s.gate.places = 1024
		for range 8 {
			s.doors = append(s.doors, s.gate.Door())
		}
		var stop func()
		s.ctx, stop = context.WithCancel(t.Context())
		s.all.Go(func() { attack(s) })
		time.Sleep(time.Second) // and the gate is full
		story(s)
		stop()
		s.all.Wait()
	})
}

// visit shakes hands, and reports whether that ended well. Whoever gives up says
// nothing more after the first flight.
func (s *siege) visit(n int, addr netip.Addr, givesUp bool) bool {
	ctx, evict := context.WithTimeout(s.ctx, 10*time.Second)
	defer evict()
	v := s.doors[n%len(s.doors)].enter(addr, evict)
	defer v.leave()
	for range 2 {
		time.Sleep(wayAndBack)
		if v.take(ctx) != nil {
			return false
		}
		time.Sleep(computing)
		v.release()
		if givesUp {
			<-ctx.Done()
			return false
		}
	}
	return ctx.Err() == nil
}

// floodFrom is four times as many handshakes as there is time for, from the addresses.
func floodFrom(address func(n int) netip.Addr) func(*siege) {
	return func(s *siege) {
		for n := 0; s.ctx.Err() == nil; n++ {
			time.Sleep(time.Second / 4000)
			s.all.Go(func() { s.visit(n, address(n), true) })
		}
	}
}

// wantNewcomers has strangers come from the addresses.
func wantNewcomers(address func(n int) netip.Addr) func(*siege) {
	return func(s *siege) {
		var failed atomic.Int32
		var longest atomic.Int64
		var all sync.WaitGroup
		for n := range 50 {
			time.Sleep(20 * time.Millisecond)
			all.Go(func() {
				began := time.Now()
				if !s.visit(n, address(n), false) {
					failed.Add(1)
				}
				longest.Store(max(longest.Load(), int64(time.Since(began))))
			})
		}
		all.Wait()
		if longest := time.Duration(longest.Load()); failed.Load() > 0 || longest > time.Second/4 {
			s.t.Errorf("%d of 50 newcomers were kept out, and the slowest took %v", failed.Load(), longest)
		}
	}
}

func TestAFloodDelaysNoNewcomer(t *testing.T) {
	in := func(subnet string, n int) netip.Addr {
		return netip.MustParseAddr(fmt.Sprintf("fd00:%s::%x:%x", subnet, n>>16, n&0xffff))
	}
	elsewhere := func(n int) netip.Addr { return in(fmt.Sprintf("900d:0:%x", n), 1) }
	beside := func(n int) netip.Addr { return in("bad", 1<<20+n) }
	for story, who := range map[string]struct{ attackers, newcomers func(n int) netip.Addr }{
		"of eight addresses":                {func(n int) netip.Addr { return in("bad", n%8) }, elsewhere},
		"of nine addresses":                 {func(n int) netip.Addr { return in("bad", n%9) }, elsewhere},
		"of the newcomers' own subnet":      {func(n int) netip.Addr { return in("bad", n%100) }, beside},
		"of a thousand addresses":           {func(n int) netip.Addr { return in("bad", n%1000) }, elsewhere},
		"of another address each time":      {func(n int) netip.Addr { return in("bad", n) }, elsewhere},
		"of addresses of a hundred subnets": {func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(n % 100), 1}) }, elsewhere},
	} {
		t.Run(story, func(t *testing.T) { besieged(t, floodFrom(who.attackers), wantNewcomers(who.newcomers)) })
	}
}

// A pod that starts opens tunnels to several pods at once.
func TestWhoComesSeveralTimesAtOnceGetsOnBesideMany(t *testing.T) {
	many := func(s *siege) {
		for n := range 60 {
			s.all.Go(func() {
				for s.ctx.Err() == nil {
					s.visit(n, netip.AddrFrom4([4]byte{10, 9, byte(n), 1}), false)
				}
			})
		}
	}
	besieged(t, many, func(s *siege) {
		var failed atomic.Int32
		began := time.Now()
		var all sync.WaitGroup
		for n := range 10 {
			all.Go(func() {
				if !s.visit(n, netip.MustParseAddr("10.0.0.1"), false) {
					failed.Add(1)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); failed.Load() > 0 || took > 2*time.Second {
			t.Errorf("%d of 10 were kept out, and the last took %v", failed.Load(), took)
		}
	})
}

func TestAFloodDoesNotMakeTheGateForgetWhoHadATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		door := c.gate.Door()
		var lately []netip.Addr
		for n := range 1000 {
			lately = append(lately, netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}))
			door.settled(lately[n])
			door.parted(lately[n])
		}
		for n := range 2 * accountLimit {
			v := c.enter(door, fmt.Sprintf("fd00:bad:%x::1", n))
			c.use(v, 10*time.Microsecond)
			v.leave()
		}
		forgotten := 0
		for _, addr := range lately {
			if a := c.gate.accounts[alone(addr)]; a == nil || !a.known(time.Now()) {
				forgotten++
			}
		}
		if forgotten > 0 {
			t.Errorf("%d of 1000 are strangers now", forgotten)
		}
	})
}
