// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// part is what one of the two apps of a talk does.
type part struct {
	first  int           // bytes that it reads before it says anything
	send   int           // bytes that it says
	piece  int           // of one write
	pause  time.Duration // between two
	urgent bool          // some are sent out of band
	gulp   int           // of one read
	rest   time.Duration // between two
	deafAt int           // after so many bytes it stops reading ...
	deaf   time.Duration // ... for so long; 0: never
	end    ending
}

// ending is how an app leaves.
type ending int

const (
	inOrder ending = iota // its FIN, then it reads to the end
	rude                  // it resets once it has said all
	curt                  // it closes once it has said all, be there input that it did not read: the kernel sends RST behind its answer
)

func (p part) String() string {
	s := fmt.Sprintf("reads %d, sends %d by %d every %v, reads by %d every %v, %s",
		p.first, p.send, p.piece, p.pause, p.gulp, p.rest, [...]string{"in order", "resets", "closes with input unread"}[p.end])
	if p.deaf > 0 {
		s += fmt.Sprintf(", deaf for %v after %d", p.deaf, p.deafAt)
	}
	if p.urgent {
		s += ", urgent"
	}
	return s
}

// plan is a talk before it begins: client and server, by number.
type plan struct {
	parts  [2]part
	v6     bool
	beside bool // the tunnel, as between two pods of one node
	from   int  // node
}

const megabyte = 1 << 20

// newPlan draws one. budget is the bytes that the path may be asked for.
func newPlan(rng *rand.Rand, budget int) plan {
	p := plan{v6: rng.IntN(3) == 0, beside: rng.IntN(4) == 0, from: rng.IntN(2)}
	for i := range p.parts {
		p.parts[i] = newPart(rng, budget)
	}
	client, server := &p.parts[0], &p.parts[1]
	switch rng.IntN(8) {
	case 0: // a request, and an answer to all of it
		server.first = client.send
		client.first, client.end, server.end = 0, inOrder, inOrder
	case 1: // an answer before the request was read, as with 413
		client.first, client.end, client.deaf = 0, inOrder, 0
		client.send = max(client.send, 1000)
		server.first, server.end = rng.IntN(11), curt
		// What its kernel could not hand over by then, it discards itself.
		server.send, server.piece = 1+rng.IntN(4000), 1400
		server.pause, server.urgent = 0, false
	case 2:
		p.parts[rng.IntN(2)].end = rude
	}
	// Two who wait for each other, or for more than the other says, wait for ever.
	if client.first = min(client.first, server.send); client.first > 0 {
		server.first = 0
	}
	server.first = min(server.first, client.send)
	client.hasten(server.send)
	server.hasten(client.send)
	return p
}

func newPart(rng *rand.Rand, budget int) part {
	p := part{
		send:  size(rng, budget),
		piece: []int{1, 100, 1400, 16 << 10, 64 << 10}[rng.IntN(5)],
		gulp:  []int{1, 1000, 32 << 10, 64 << 10}[rng.IntN(4)],
	}
	// One byte at a time, or with pauses, takes long enough with little.
	if p.piece == 1 {
		p.send = min(p.send, 3000)
	}
	if rng.IntN(4) == 0 {
		p.pause = time.Duration(rng.IntN(20)) * time.Millisecond
		p.send = min(p.send, 200*p.piece)
	}
	if rng.IntN(4) == 0 {
		p.rest = time.Duration(rng.IntN(20)) * time.Millisecond
		p.gulp = max(p.gulp, 1000)
	}
	if rng.IntN(6) == 0 {
		p.deafAt, p.deaf = rng.IntN(50_000), time.Duration(rng.IntN(5000))*time.Millisecond
	}
	p.urgent = rng.IntN(10) == 0
	if rng.IntN(5) == 0 {
		p.first = rng.IntN(1000)
	}
	return p
}

// hasten has a part read what it hears, and say what it says, in a few seconds.
func (p *part) hasten(hears int) {
	times := func(pause time.Duration) int {
		if pause > 0 {
			return 200
		}
		return 5000
	}
	p.gulp = max(p.gulp, hears/times(p.rest))
	p.piece = max(p.piece, p.send/times(p.pause))
}

// size is mostly little and sometimes much, up to what the path may be asked for.
func size(rng *rand.Rand, budget int) int {
	most := []int{0, 1, 100, 10_000, 100_000, megabyte, 16 * megabyte}[rng.IntN(7)]
	if most = min(most, budget); most <= 1 {
		return most
	}
	return most/2 + rng.IntN(most/2+1)
}
