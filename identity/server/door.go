// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
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
type room struct{ strangers, nodes, metrics, bundle int }

// roomFor divides the descriptors that the process may have.
func roomFor(descriptors int) room {
	r := room{strangers: min(256, descriptors/4), metrics: min(64, descriptors/16), bundle: min(64, descriptors/16)}
	r.nodes = min(16384, max(descriptors/4, descriptors-spareDescriptors-r.strangers-r.metrics-r.bundle))
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
// keeps its seat if it proves itself at once.
type door struct {
	net.Listener
	room     room
	deadline time.Duration // for a stranger; 0: none

	mu        sync.Mutex // guards what follows, and what it says of the visitors
	strangers crowd      // by address
	nodes     crowd      // by name
}

func newDoor(ln net.Listener, r room, deadline time.Duration) *door {
	return &door{Listener: ln, room: r, deadline: deadline, strangers: newCrowd(), nodes: newCrowd()}
}

// visitor is an open connection. The door's mu guards all but Conn and of.
type visitor struct {
	net.Conn
	of   *door
	late *time.Timer // nil without a deadline
	node string      // that it was proved to be of; empty: a stranger's
	seat *seat       // nil: it has been given up, or closed
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
	from := ""
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = tcp.AddrPort().Addr().Unmap().String()
	}
	v := &visitor{Conn: conn, of: d}
	d.mu.Lock()
	if d.deadline > 0 {
		v.late = time.AfterFunc(d.deadline, func() { v.Close() })
	}
	d.strangers.enter(v, from)
	var lost *visitor
	if d.strangers.total > d.room.strangers {
		lost = d.strangers.greediest()
		lost.leaveLocked()
	}
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
	if v.seat == nil || v.node == node {
		d.mu.Unlock()
		return
	}
	v.leaveLocked()
	v.node = node
	d.nodes.enter(v, node)
	var lost *visitor
	switch {
	case v.seat.holder.open.Len() > nodeConns:
		lost = v.seat.holder.oldest().visitor
	case d.nodes.total > d.room.nodes:
		lost = d.nodes.greediest()
	}
	if lost != nil {
		lost.leaveLocked()
	}
	d.mu.Unlock()
	if lost != nil {
		lost.Close()
	}
}

// leaveLocked gives the seat back.
func (v *visitor) leaveLocked() {
	if v.late != nil {
		v.late.Stop()
	}
	if v.node == "" {
		v.of.strangers.leave(v)
	} else {
		v.of.nodes.leave(v)
	}
}

// RemoteAddr is an address by which a request finds the visitor.
func (v *visitor) RemoteAddr() net.Addr {
	if tcp, ok := v.Conn.RemoteAddr().(*net.TCPAddr); ok {
		return address{tcp, v}
	}
	return v.Conn.RemoteAddr()
}

// Close gives the seat back.
func (v *visitor) Close() error {
	v.of.mu.Lock()
	v.leaveLocked()
	v.of.mu.Unlock()
	return v.Conn.Close()
}
