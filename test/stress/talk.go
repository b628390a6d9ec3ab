// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// talk is one connection of an app to another. A CONNECT that is tried again may
// reach the server more than once: each time is an app of its own.
type talk struct {
	plan
	number int
	dst    netip.AddrPort // its port is the talk's alone while it lasts
	talks  *talks
	begun  time.Time

	mu      sync.Mutex
	client  *app
	servers []*app
	dialErr error
	ended   time.Time
	playing int  // servers
	judged  bool // what comes now comes too late
}

func (t *talk) says(role int) pattern {
	return pattern(mix(t.talks.seed ^ uint64(t.number)<<1 ^ uint64(role)))
}

// run is the client's life.
func (t *talk) run(from *node) {
	conn, err := from.call(t)
	t.mu.Lock()
	if t.dialErr = err; err == nil {
		t.client = newApp(t.parts[0], conn, t.says(0), t.says(1), &t.talks.progress)
	}
	t.mu.Unlock()
	if err == nil {
		t.client.play()
	}
}

// serve is a server's life.
func (t *talk) serve(conn *net.TCPConn) {
	a := newApp(t.parts[1], conn, t.says(1), t.says(0), &t.talks.progress)
	t.mu.Lock()
	late := t.judged
	if !late {
		t.servers = append(t.servers, a)
		t.playing++
	}
	t.mu.Unlock()
	if late { // a CONNECT that was given up
		conn.Close()
		return
	}
	a.play()
	t.mu.Lock()
	t.playing--
	t.mu.Unlock()
}

// String tells all that is known.
func (t *talk) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s strings.Builder
	fmt.Fprintf(&s, "talk %d with %v of %v, begun %s", t.number, t.dst, t.from, stamp(t.begun))
	if t.beside {
		s.WriteString(", beside the tunnel")
	}
	if t.dialErr != nil {
		fmt.Fprintf(&s, ", dial: %v", t.dialErr)
	}
	for i, a := range append([]*app{t.client}, t.servers...) {
		name := "server"
		if i == 0 {
			name = "client"
		}
		if a == nil {
			fmt.Fprintf(&s, "\n    %s: none", name)
			continue
		}
		fmt.Fprintf(&s, "\n    %s: %v\n        sent %d, got %d, read %v, write %v", name, a.part, a.sent.Load(), a.got.Load(), a.read.err(), a.wrote.err())
	}
	for _, r := range t.talks.ledger.all(t.dst) {
		fmt.Fprintf(&s, "\n    record of %s", r)
	}
	return s.String()
}

func stamp(t time.Time) string { return t.Format("05.000") }
