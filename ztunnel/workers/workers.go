// SPDX-License-Identifier: Apache-2.0

// Package workers runs functions in goroutines that it has. A new goroutine begins with a
// small stack, which is copied to larger ones two or three times while a connection is
// opened or ended; one that has done so before has it. That is an eighth of what a
// connection takes of the processors.
package workers

import (
	"sync/atomic"
	"time"
)

// most is how many goroutines wait for something to run: more connections than begin at once
// where turns are shared (package proxy), or handshakes where one gate bounds them (package
// hbone). A stack is of some kilobytes, a larger one where it shook hands. Those that
// nobody needed from one look to the next leave.
const (
	most = 64
	look = 2 * time.Second
)

// Pool is goroutines that wait for something to run. The nil Pool has none, and makes a
// new one each time.
type Pool struct {
	next    chan func()
	closed  chan struct{}
	spent   func() bool
	waiting atomic.Int32
	least   atomic.Int32 // that waited since the last look
	looking atomic.Bool  // a look will come
}

// New returns a Pool. It has as many goroutines as it needed at once lately, 64 at most. Once
// spent reports true, none runs a second function: their threads may not be what they were.
func New(spent func() bool) *Pool {
	return &Pool{next: make(chan func()), closed: make(chan struct{}), spent: spent}
}

// Close ends the goroutines that wait, and those that run something when it is over. What
// Go is given later runs in a new one. It is called once.
func (p *Pool) Close() { close(p.closed) }

// Go is the go statement: run never waits for another.
func (p *Pool) Go(run func()) {
	if p == nil {
		go run()
		return
	}
	select {
	case p.next <- run:
	default: // nobody waits
		go p.work(run)
	}
}

func (p *Pool) work(run func()) {
	for {
		run()
		run = nil // what it holds is over
		if p.spent() {
			return
		}
		if p.waiting.Add(1) > most {
			p.waiting.Add(-1)
			return
		}
		p.lookLater()
		select {
		case run = <-p.next:
		case <-p.closed:
		}
		p.taken(p.waiting.Add(-1))
		if run == nil {
			return
		}
	}
}

// taken notes how many are left to wait.
func (p *Pool) taken(left int32) {
	for least := p.least.Load(); left < least && !p.least.CompareAndSwap(least, left); least = p.least.Load() {
	}
}

func (p *Pool) lookLater() {
	if p.looking.CompareAndSwap(false, true) {
		time.AfterFunc(look, p.shed)
	}
}

// shed has those leave that were not needed since the last look.
func (p *Pool) shed() {
	for range p.least.Load() {
		select {
		case p.next <- nil:
		default:
		}
	}
	p.least.Store(p.waiting.Load())
	p.looking.Store(false)
	if p.waiting.Load() > 0 {
		p.lookLater()
	}
}
