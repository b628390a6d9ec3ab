// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// legLinger is how long the kernel may take to complete a handshake on its
// own side after connect() returned, before the leg's entry goes: microseconds, or, if
// the first data are to acknowledge the app's SYN, until these, and 200 ms if there are none
// (socket.SaveAck). Normally sockops has deleted it by then; it does not if the app left the
// cgroup.
const legLinger = time.Second

// legs are the legs to apps that are being opened, or were a moment ago. Each may
// have an entry in the map inner, which all pods share.
type legs struct {
	forbidden atomic.Uint64 // that should have had a port below 1024, which we may not bind

	mu   sync.Mutex
	room int // of the map
	open map[meshFlow]struct{}
	held map[uint64]int // how many of the open ones a netns has
	done []doneLeg      // oldest first
}

type doneLeg struct {
	flow meshFlow
	at   time.Time
}

// begin reserves a flow; EADDRINUSE says that another dial has it.
//
// A pod whose app accepts nothing holds each of its legs for minutes. It may hold
// as many as are free: one alone gets half of the map, n get 1/(n+1) each, and as
// much is left for the others. The error is ENOBUFS, that something ran short.
func (l *legs) begin(flow meshFlow) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.open[flow]; taken {
		return unix.EADDRINUSE
	}
	if l.open == nil {
		l.open, l.held = make(map[meshFlow]struct{}), make(map[uint64]int)
	}
	if held, free := l.held[flow.Netns], l.room-len(l.open); held >= free {
		return fmt.Errorf("the pod has %d connections to its app under way, which is its share of %d: %w", held, l.room, unix.ENOBUFS)
	}
	l.open[flow] = struct{}{}
	l.held[flow.Netns]++
	return nil
}

// abort ends the reservation of a flow.
func (l *legs) abort(flow meshFlow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[flow]; !open {
		return
	}
	delete(l.open, flow)
	if l.held[flow.Netns]--; l.held[flow.Netns] == 0 {
		delete(l.held, flow.Netns)
	}
}

func (l *legs) finish(flow meshFlow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, doneLeg{flow, time.Now()})
}

// expired takes the legs that were opened long enough ago. Their flows are
// still reserved: abort ends that, once their entries are gone.
func (l *legs) expired() []doneLeg {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.done) && time.Since(l.done[n].at) > legLinger {
		n++
	}
	old := l.done[:n:n]
	l.done = l.done[n:]
	return old
}

func (d *Datapath) sweepLegs() {
	for _, leg := range d.legs.expired() {
		// What is left of it expires in the kernel, too.
		_ = remove(d.mesh.Inner, &leg.flow)
		d.legs.abort(leg.flow)
	}
}

// IsInner says whether a connection that an inbound listener accepted is one
// of ztunnel's own legs to the app. It must be refused, or ztunnel would talk
// to itself. A leg's SYN bears a mark, which the socket that is accepted takes
// over (tcp_fwmark_accept); one from the wire bears none. The 4-tuple would not
// do: the client whom a leg poses as may use that very port a moment later.
func (d *Datapath) IsInner(conn *net.TCPConn) bool {
	mark := 0
	err := withFd(conn, func(fd int) (err error) {
		mark, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
		return err
	})
	return err == nil && mark == innerMark
}
