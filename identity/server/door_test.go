// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// doorstep is a listener whose connections a test makes, from any address.
type doorstep struct {
	net.Listener
	next net.Conn
}

func (d *doorstep) Accept() (net.Conn, error) { return d.next, nil }

// tcpConn is a pipe that says it came from an address.
type tcpConn struct {
	net.Conn
	from net.IP
}

func (c tcpConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.from, Port: 40000} }

// enter opens a connection from 10.0.0.last; the test reads what becomes of it at far.
func enter(t *testing.T, d *door, last byte) (v *visitor, far net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	d.Listener.(*doorstep).next = tcpConn{near, net.IPv4(10, 0, 0, last)}
	conn, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); far.Close() })
	return conn.(*visitor), far
}

func closed(far net.Conn) bool {
	far.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := far.Read(make([]byte, 1))
	return err == io.EOF
}

func testDoor(strangers, nodes int) *door {
	return newDoor(&doorstep{}, room{strangers: strangers, nodes: nodes}, proveWithin)
}

func TestAStrangerMakesRoomForWhoeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := testDoor(3, 10)
		_, greedy1 := enter(t, d, 1)
		_, other := enter(t, d, 2)
		_, greedy2 := enter(t, d, 1)
		_, newcomer := enter(t, d, 3)
		if got := []bool{closed(greedy1), closed(other), closed(greedy2), closed(newcomer)}; got[0] != true || got[1] || got[2] || got[3] {
			t.Errorf("closed: %v, want the oldest of whoever holds most", got)
		}
	})
}

func TestAConnectionThatProvesNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := testDoor(3, 10)
		_, idle := enter(t, d, 1)
		v, node := enter(t, d, 2)
		v.proved("node-1")
		time.Sleep(proveWithin + time.Second)
		if !closed(idle) || closed(node) {
			t.Errorf("closed: the stranger's %v, the node's %v", closed(idle), closed(node))
		}
		if d.strangers.total != 0 || d.nodes.total != 1 || len(d.strangers.byName) != 0 {
			t.Errorf("%d strangers' and %d nodes' connections are counted", d.strangers.total, d.nodes.total)
		}
	})
}

func TestANodeTakesNoPlaceOfStrangersOrOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := testDoor(1, nodeConns+2)
		v, small := enter(t, d, 9)
		v.proved("small")
		var ends []net.Conn
		for range nodeConns + 1 {
			v, far := enter(t, d, 1)
			v.proved("greedy")
			ends = append(ends, far)
		}
		if !closed(ends[0]) || closed(ends[1]) {
			t.Error("a node keeps more connections than it may, or too few")
		}
		for i := range byte(2) {
			v, _ := enter(t, d, 10+i)
			v.proved(string('a' + rune(i)))
		}
		if !closed(ends[1]) || closed(small) {
			t.Error("for one more, not the node with most lost its oldest")
		}
		if _, stranger := enter(t, d, 50); closed(stranger) {
			t.Error("there is no room for a stranger")
		}
	})
}

func TestDescriptorsAreDividedSoThatSomeAreLeft(t *testing.T) {
	for _, n := range []int{256, 1024, 4096, 1 << 20} {
		r := roomFor(n)
		if sum := r.strangers + r.nodes + r.metrics; r.strangers < 16 || r.nodes < 64 || r.metrics < 16 || sum > n-100 {
			t.Errorf("%d descriptors are divided into %+v", n, r)
		}
	}
}

// Two replicas of a CA for 5,000 nodes each have as many connections, and strangers come
// beside. Accept used to walk all of them, with the door locked: 1,141 µs
// where it takes 5 now.
func BenchmarkAStrangerComesBesideFiveThousandNodes(b *testing.B) {
	d := testDoor(256, 16384)
	come := func(i int) *visitor {
		d.Listener.(*doorstep).next = tcpConn{nobody{}, net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}
		conn, err := d.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return conn.(*visitor)
	}
	for i := range 5000 {
		come(i).proved(strconv.Itoa(i))
	}
	i := 0
	for b.Loop() {
		i++
		come(i % 600)
	}
}

// nobody is a connection that costs nothing.
type nobody struct{ net.Conn }

func (nobody) Close() error { return nil }

// What the ranking keeps in order is what a look at all connections would find.
func TestTheGreediestIsWhomALookAtAllWouldFind(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c, open := newCrowd(), []*visitor{}
	names := map[*visitor]string{}
	for range 5000 {
		if len(open) > 0 && random.IntN(5) < 2 {
			i := random.IntN(len(open))
			c.leave(open[i])
			open = slices.Delete(open, i, i+1)
		} else {
			v := &visitor{}
			names[v] = strconv.Itoa(random.IntN(20))
			c.enter(v, names[v])
			open = append(open, v)
		}
		var want *visitor
		held, most := map[string]int{}, 0
		for _, v := range slices.Backward(open) {
			if held[names[v]]++; held[names[v]] >= most {
				want, most = v, held[names[v]]
			}
		}
		if c.total != len(open) || len(c.byName) != len(held) {
			t.Fatalf("%d connections of %d holders, want %d of %d", c.total, len(c.byName), len(open), len(held))
		}
		if want != nil && c.greediest() != want {
			t.Fatalf("one of %s, want one of %s", names[c.greediest()], names[want])
		}
	}
}
