// SPDX-License-Identifier: Apache-2.0

// Package progress tells whoever waits what is being done, how far it is, and how long it
// may take.
//
// What is done within two seconds is not told. On a terminal there is one line that changes,
// and goes at the end; elsewhere there are plain lines, one every ten seconds.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	quiet     = 2 * time.Second
	redrawn   = 500 * time.Millisecond // on a terminal
	toldAgain = 10 * time.Second       // elsewhere
)

// Work is something that takes a while. Nil is told to nobody.
type Work struct {
	out      io.Writer
	terminal bool
	what     string
	began    time.Time
	most     time.Duration
	stop     chan struct{}
	stopped  chan struct{}
	ended    sync.Once

	drawing sync.Mutex // one that writes at a time; before mu
	drawn   bool       // a line stands on the terminal; guarded by drawing

	mu       sync.Mutex // guards what follows
	done, of int
	now      string // the part that is being done
}

// Begin tells of what is done from now on, until End: what, as "asks nodes", of how many
// parts, and for how long at most. Of a zero nothing is said.
func Begin(out io.Writer, terminal bool, what string, of int, most time.Duration) *Work {
	w := &Work{
		out: out, terminal: terminal, what: what, of: of, most: most, began: time.Now(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go w.run()
	return w
}

// Parts says that there are so many parts more, once that is known.
func (w *Work) Parts(of int) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of += of
}

// Part says that another part begins, by its name.
func (w *Work) Part(name string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = name
}

// Done says that so many parts more are done.
func (w *Work) Done(parts int) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += parts
}

// Around has write write to the same terminal: the line that changes goes before it. What
// is done in between is told in the next line.
func (w *Work) Around(write func() error) error {
	if w == nil {
		return write()
	}
	w.drawing.Lock()
	defer w.drawing.Unlock()
	w.erase()
	return write()
}

// erase takes the line off the terminal; w.drawing is held.
func (w *Work) erase() {
	if w.drawn {
		fmt.Fprint(w.out, "\r\x1b[K")
	}
	w.drawn = false
}

// End says that all is done. Nothing is written after it; a second End does nothing.
func (w *Work) End() {
	if w == nil {
		return
	}
	w.ended.Do(func() { close(w.stop) })
	<-w.stopped
}

func (w *Work) run() {
	defer close(w.stopped)
	next := time.NewTimer(quiet)
	defer next.Stop()
	for {
		select {
		case <-w.stop:
			w.drawing.Lock()
			w.erase()
			w.drawing.Unlock()
			return
		case <-next.C:
		}
		next.Reset(w.draw())
	}
}

// draw tells how far it is, and returns after which time it is to be told again.
func (w *Work) draw() time.Duration {
	w.drawing.Lock()
	defer w.drawing.Unlock()
	if w.terminal {
		w.drawn = true
		fmt.Fprintf(w.out, "\r\x1b[K%s", w.line())
		return redrawn
	}
	fmt.Fprintf(w.out, "culvert: %s\n", w.line())
	return toldAgain
}

// line is as "asks nodes: 3 of 20, node4; for 2s, 12s at most".
func (w *Work) line() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var parts []string
	if w.of > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d", w.done, w.of))
	}
	if w.now != "" {
		parts = append(parts, w.now)
	}
	text := w.what
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	text += fmt.Sprintf("; for %v", time.Since(w.began).Round(time.Second))
	if w.most > 0 {
		text += fmt.Sprintf(", %v at most", w.most)
	}
	return text
}
