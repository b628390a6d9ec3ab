// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"sync"
	"time"
)

// conditions are what a path is like for a while.
type conditions struct {
	rate  int           // bytes a second, each way
	delay time.Duration // each way
	loss  float64       // share of packets
	out   bool          // nothing passes
}

// leastQueue is the bytes that may wait of one flow before a slow path; a fast
// one holds what it moves in queueTime. What is more is dropped, as a router does.
const (
	leastQueue = 16 << 10
	queueTime  = 250 * time.Millisecond
)

// lane is one direction of a path. Flows take turns, as in any router that is
// fit for a slow link: what one connection has to wait for is its own doing.
type lane struct {
	from, to *os.File
	path     *path
	due      chan parcel // sent, and to arrive later

	mu      sync.Mutex
	changed sync.Cond
	waiting map[flow]*queue
	turns   []flow // of those that have packets
	ended   bool
}

// queue is the packets of one flow.
type queue struct {
	packets []packet
	bytes   int
}

// parcel is a packet on its way.
type parcel struct {
	at     time.Time // of its arrival
	packet packet
}

func newLane(p *path, from, to *os.File) *lane {
	l := &lane{from: from, to: to, path: p, due: make(chan parcel, 4096), waiting: make(map[flow]*queue)}
	l.changed.L = &l.mu
	return l
}

// take reads what one end sends, until its device is closed.
func (l *lane) take() {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.from.Read(buf)
		if err != nil {
			break
		}
		l.admit(packet(buf[:n]))
	}
	l.mu.Lock()
	l.ended = true
	l.changed.Signal()
	l.mu.Unlock()
}

// admit decides what becomes of a packet: it waits for its turn, is answered for
// its receiver, or is lost.
func (l *lane) admit(p packet) {
	f, c, fate := l.path.judge(p)
	switch fate {
	case refuse:
		_, _ = l.from.Write(p.refusal())
		return
	case lose:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.waiting[f]
	if q == nil {
		q = new(queue)
		l.waiting[f] = q
		l.turns = append(l.turns, f)
	}
	if q.bytes+len(p) > max(leastQueue, int(float64(c.rate)*queueTime.Seconds())) {
		return
	}
	q.packets, q.bytes = append(q.packets, append(packet(nil), p...)), q.bytes+len(p)
	l.changed.Signal()
}

// next waits for the packet whose turn it is; nil at the end.
func (l *lane) next() packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.turns) == 0 && !l.ended {
		l.changed.Wait()
	}
	if l.ended {
		return nil
	}
	f := l.turns[0]
	l.turns = l.turns[1:]
	q := l.waiting[f]
	p := q.packets[0]
	q.packets, q.bytes = q.packets[1:], q.bytes-len(p)
	if len(q.packets) > 0 {
		l.turns = append(l.turns, f)
	} else {
		delete(l.waiting, f)
	}
	return p
}

// send has the packets leave at the path's rate.
func (l *lane) send() {
	defer close(l.due)
	for free := time.Now(); ; {
		p := l.next()
		if p == nil {
			return
		}
		c := l.path.conditions()
		if now := time.Now(); free.Before(now) {
			free = now
		}
		free = free.Add(time.Duration(float64(len(p)) / float64(c.rate) * float64(time.Second)))
		pause(free)
		l.due <- parcel{free.Add(c.delay), p}
	}
}

// deliver hands over what was sent, each when it is due.
func (l *lane) deliver() {
	for p := range l.due {
		pause(p.at)
		_, _ = l.to.Write(p.packet) // the device is closed, or its queue full
	}
}

// pause sleeps until then, if that is long enough to sleep.
func pause(until time.Time) {
	if wait := time.Until(until); wait > 200*time.Microsecond {
		time.Sleep(wait)
	}
}
