// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Whoever is asked to go has a moment in which it may open a stream, and keep it.
func TestTunnelsThatDoNotGoWhenAskedKeepNobodyOut(t *testing.T) {
	const most = 2 * holderLeast
	f := newFair(t, ListenerConfig{MaxTunnels: most})
	begin := time.Now()
	for addr := 2; f.ln.Stats().Tunnels < hardLimit(most); addr++ {
		if err := f.overstay(fmt.Sprintf("127.0.0.%d", addr), hardLimit(most)); err != nil {
			if time.Since(begin) < leaveTimeout && !errors.Is(err, errTooSlow) {
				t.Fatal(err)
			}
			break // on a slow machine those that were asked first are gone by now
		}
	}
	for range 3 {
		f.enter(otherID, "127.0.0.99").wantOpen()
	}
}

// errTooSlow says that the test was too slow to open a stream before the tunnel was over.
var errTooSlow = errors.New("late")

// overstay opens tunnels from an address until so many are there in all, or the address
// has holderLeast that opened a stream when they were asked to go. Only those stay.
func (f *fair) overstay(addr string, limit int) error {
	before := f.ln.Stats().Tunnels
	var peers []*rawPeer
	for i := 0; i < 2*holderLeast; i++ {
		if f.ln.Stats().Tunnels >= limit {
			return nil
		}
		asked := time.Now() // or later: by the tunnel that needs the room
		p, err := f.rawFrom(addr)
		if err != nil {
			return err
		}
		if peers = append(peers, p); i < holderLeast {
			continue
		}
		old := peers[i-holderLeast] // it has to make room
		if _, err := old.find(is[*http2.GoAwayFrame]); err != nil {
			return err
		}
		if err := old.connect(1); err != nil {
			return err
		}
		if _, err := old.find(is[*http2.MetaHeadersFrame]); err != nil {
			if time.Since(asked) > goAwayDelay {
				err = errors.Join(errTooSlow, err)
			}
			return err
		}
	}
	for _, p := range peers[holderLeast:] {
		p.conn.NetConn().Close()
	}
	waitUntil(f.t, func() bool { return f.ln.Stats().Tunnels <= before+holderLeast })
	return nil
}

// rawFrom is a raw peer at an address, which has exchanged prefaces and SETTINGS.
func (f *fair) rawFrom(addr string) (*rawPeer, error) {
	f.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	conn, err := tls.DialWithDialer(&d, "tcp", f.key.Addr.String(), f.ca.credential(clientID, serverID, time.Hour).Config)
	if err != nil {
		return nil, err
	}
	p := newRawPeer(f.t, conn)
	p.greet()
	return p, nil
}

func TestATunnelIsLeavingOnlyForAWhile(t *testing.T) {
	const most = 2 * holderLeast
	synctest.Test(t, func(t *testing.T) {
		ce := NewCensus()
		enter := func(addr string) (*conn, error) {
			from := netip.AddrPortFrom(netip.MustParseAddr(addr), 1)
			c := newConn(false, nowhere{}, proof{peer: clientID, local: dbAddr, remote: from}, &hooks{})
			c.used()
			makeRoom, err := ce.place(c, most)
			if err != nil {
				return nil, err
			}
			ce.add(c)
			t.Cleanup(func() { c.abort(ErrDrained) })
			if makeRoom != nil {
				makeRoom()
			}
			return c, nil
		}
		var list []*conn
		for range 2 * holderLeast { // so half of them are asked to go, and none does
			c, err := enter("10.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, c)
		}
		for _, c := range list {
			c.mu.Lock()
			c.guards = map[*Guard]struct{}{new(Guard): {}} // as by a stream that came just in time
			c.mu.Unlock()
		}
		if _, err := enter("10.0.0.2"); err != nil {
			t.Errorf("the places of those that are leaving are not free: %v", err)
		}
		if _, err := enter("10.0.0.1"); !errors.Is(err, ErrLimit) {
			t.Errorf("another tunnel of the same peer: %v, want %v", err, ErrLimit)
		}
		time.Sleep(leaveTimeout + time.Second)
		if _, err := enter("10.0.0.1"); err != nil || !list[0].over() || list[1].over() {
			t.Errorf("the oldest of those that did not leave goes on: %v, next %v, and the newcomer: %v", !list[0].over(), !list[1].over(), err)
		}
		if ce.leaving != 1 || ce.size-ce.leaving != most+1 {
			t.Errorf("%d of %d are leaving", ce.leaving, ce.size)
		}
		for _, c := range list {
			ce.remove(c)
		}
		if ce.leaving != 0 || ce.size != 2 {
			t.Errorf("%d of %d are leaving in the end", ce.leaving, ce.size)
		}
	})
}
