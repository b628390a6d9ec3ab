// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	spliceSize  = 256 << 10       // of a pipe, where the system allows it
	pipesAtRest = 16              // empty ones that are kept for the next bytes
	pipesMost   = 1024            // open at a time: apps that do not read hold pipes
	pipesShare  = 32              // and no more than one for so many descriptors
	pipeRest    = time.Second / 2 // between sweeps
)

// pipesOpen counts the pipes of this process.
var pipesOpen atomic.Int64

// pipe is where spliced bytes are between two sockets.
type pipe struct{ r, w int }

// pipes lends empty pipes to all connections of the process, so that only
// those through which bytes are passing have one.
var pipes pipePool

type pipePool struct {
	mu      sync.Mutex
	resting []*pipe // the last is lent first
	unused  int     // of them, since the last sweep: the first ones
	swept   bool    // a sweep is to come
}

// get lends a pipe. The error is errScarce's when there are no descriptors, or
// enough pipes: copying needs none.
func (p *pipePool) get() (*pipe, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.resting) - 1
	if last < 0 {
		return newPipe()
	}
	lent := p.resting[last]
	p.resting = p.resting[:last]
	p.unused = min(p.unused, last)
	return lent, nil
}

// put takes a pipe back, which is empty.
func (p *pipePool) put(back *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.resting) == pipesAtRest {
		back.close()
		return
	}
	p.resting = append(p.resting, back)
	if !p.swept {
		p.swept = true
		time.AfterFunc(pipeRest, p.sweep)
	}
}

// sweep closes the pipes that nobody needed since the last one.
func (p *pipePool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, idle := range p.resting[:p.unused] {
		idle.close()
	}
	p.resting = append(p.resting[:0], p.resting[p.unused:]...)
	p.unused = len(p.resting)
	if p.swept = p.unused > 0; p.swept {
		time.AfterFunc(pipeRest, p.sweep)
	}
}

func newPipe() (*pipe, error) {
	if scarce() || pipesOpen.Load() >= mostPipes() {
		return nil, errScarce
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, errScarce
	}
	pipesOpen.Add(1)
	// Refused beyond the user's quota; the default size will do.
	unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, spliceSize)
	return &pipe{fds[0], fds[1]}, nil
}

func mostPipes() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return pipesMost
	}
	return int64(min(limit.Cur/pipesShare, pipesMost))
}

func (p *pipe) close() {
	pipesOpen.Add(-1)
	unix.Close(p.r)
	unix.Close(p.w)
}
