// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// proveWithin is how long a connection may be open before a request on it proves
	// which node calls.
	proveWithin = 15 * time.Second
	// nodeConns bounds the connections of one node, which needs one.
	nodeConns = 8
	// spareDescriptors are for the API server's client, files and what Go needs itself.
	spareDescriptors = 128
)

// room is how many connections of each sort may be open at a time, so that no sort
// takes the file descriptors of another.
type room struct{ strangers, nodes, metrics int }

// roomFor divides the descriptors that the process may have.
func roomFor(descriptors int) room {
	r := room{strangers: min(256, descriptors/4), metrics: min(64, descriptors/16)}
	r.nodes = min(16384, max(descriptors/4, descriptors-spareDescriptors-r.strangers-r.metrics))
	return r
}

// descriptors is the limit of this process. Go has raised it as far as it may.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// door bounds the connections of a listener: those of strangers by address, and those
// on which a node has proved itself by node. For one more than there is room for, the
// address or node that holds most loses its oldest. So a newcomer always gets in, and
// keeps its place if it proves itself at once.
type door struct {
	net.Listener
	room     room
	deadline time.Duration // for a stranger; 0: none

	mu   sync.Mutex // guards what follows, and the visitors' nodes
	open []*visitor // the oldest first
}

// visitor is an open connection.
type visitor struct {
	net.Conn
	of    *door
	from  netip.Addr
	late  *time.Timer // nil without a deadline
	node  string      // that it was proved to be of; empty: a stranger's
	ended bool
}

// address is a visitor's, by which a request finds it.
type address struct {
	*net.TCPAddr
	visitor *visitor
}

// Accept waits for the next connection, and makes room for it.
func (d *door) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	v := &visitor{Conn: conn, of: d}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		v.from = tcp.AddrPort().Addr().Unmap()
	}
	d.mu.Lock()
	if d.deadline > 0 {
		v.late = time.AfterFunc(d.deadline, func() { v.Close() })
	}
	d.open = append(d.open, v)
	lost := d.crowdedLocked(func(v *visitor) (string, bool) { return v.from.String(), v.node == "" }, d.room.strangers)
	d.mu.Unlock()
	if lost != nil {
		lost.Close() // whoever serves it finds it closed
	}
	return v, nil
}

// proved takes it that the connection is one of a node's.
func (v *visitor) proved(node string) {
	d := v.of
	d.mu.Lock()
	if v.ended || v.node == node {
		d.mu.Unlock()
		return
	}
	v.node = node
	if v.late != nil {
		v.late.Stop()
	}
	ofNode := func(v *visitor) (string, bool) { return v.node, v.node == node }
	lost := cmp.Or(d.crowdedLocked(ofNode, nodeConns), d.crowdedLocked(func(v *visitor) (string, bool) { return v.node, v.node != "" }, d.room.nodes))
	d.mu.Unlock()
	if lost != nil {
		lost.Close()
	}
}

// crowdedLocked returns the oldest connection of the holder that has most, if those
// that count are more than there is room for.
func (d *door) crowdedLocked(holder func(*visitor) (name string, counts bool), room int) (lost *visitor) {
	held, total, most := map[string]int{}, 0, 0
	for _, v := range slices.Backward(d.open) {
		name, counts := holder(v)
		if !counts {
			continue
		}
		total++
		if held[name]++; held[name] >= most {
			lost, most = v, held[name]
		}
	}
	if total <= room {
		return nil
	}
	return lost
}

// RemoteAddr is an address by which a request finds the visitor.
func (v *visitor) RemoteAddr() net.Addr {
	if tcp, ok := v.Conn.RemoteAddr().(*net.TCPAddr); ok {
		return address{tcp, v}
	}
	return v.Conn.RemoteAddr()
}

// Close gives the place back.
func (v *visitor) Close() error {
	v.of.mu.Lock()
	if i := slices.Index(v.of.open, v); i >= 0 {
		v.of.open = slices.Delete(v.of.open, i, i+1)
	}
	v.ended = true
	if v.late != nil {
		v.late.Stop()
	}
	v.of.mu.Unlock()
	return v.Conn.Close()
}
