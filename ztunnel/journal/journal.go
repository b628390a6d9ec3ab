// SPDX-License-Identifier: Apache-2.0

// Package journal is a log that cannot stop the program that writes it.
//
// A record is formatted by its caller and put into a bounded queue; one
// goroutine writes the queue out. A record that follows a write within 5 ms waits for
// the rest of them, unless it is an error: one write takes several. If the output blocks (stderr is a pipe whose
// reader has stopped) or fails (a full disk), records are dropped and counted.
// When the output takes text again, one record says how many were dropped.
//
// What is queued is lost if the process is killed or panics.
package journal

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Keys of the record that tells of drops.
const (
	keyDropped = "dropped"
	keyErrors  = "dropped_errors"
)

// Options bound a Journal.
type Options struct {
	Records int           // that may wait for the output; 32,768: 10,000 connections may end at once
	Bytes   int           // of text that may wait for the output; 16 MiB
	Wait    time.Duration // for room, by a record at Error or above; 100 ms
}

func (o Options) withDefaults() Options {
	if o.Records == 0 {
		o.Records = 32 << 10
	}
	if o.Bytes == 0 {
		o.Bytes = 16 << 20
	}
	if o.Wait == 0 {
		o.Wait = 100 * time.Millisecond
	}
	return o
}

// class is a level as drops are counted by it.
type class int

const classes = 4

var classNames = [classes]string{"debug", "info", "warn", "error"}

func classOf(level slog.Level) class {
	switch {
	case level < slog.LevelInfo:
		return 0
	case level < slog.LevelWarn:
		return 1
	case level < slog.LevelError:
		return 2
	}
	return 3
}

// Journal is a queue of formatted records in front of an output.
type Journal struct {
	out    io.Writer
	opts   Options
	root   [classes]slog.Handler // with no attributes yet
	notice slog.Handler          // formats into told
	told   []byte                // used by Run's goroutine only

	dropped [classes]atomic.Uint64 // since the start
	full    atomic.Bool            // a record was refused since the last take; written under mu

	mu     sync.Mutex // guards what follows
	queued batch
	lost   [classes]uint64 // dropped since the last notice
	stuck  bool            // a record at Error has waited in vain since the last take
	closed bool
	room   chan struct{} // closed by the next take
	wake   *sync.Cond    // queued or closed changed

	hurry chan struct{} // has one for Run to gather no longer
	ended chan struct{} // closed when Run returns
}

// batch is formatted records, one after the other.
type batch struct {
	text    []byte
	ends    []int // offset in text behind each record
	classes []class
}

func (b *batch) add(text []byte, c class) {
	b.text = append(b.text, text...)
	b.ends = append(b.ends, len(b.text))
	b.classes = append(b.classes, c)
}

// reset empties b and keeps its memory, unless an excess made it large.
func (b *batch) reset() {
	const keep = 256 << 10
	if cap(b.text) > keep {
		*b = batch{}
	}
	b.text, b.ends, b.classes = b.text[:0], b.ends[:0], b.classes[:0]
}

// New returns a journal in front of out. format makes the handlers that write
// records as text, one call of Write for each. Nothing is written before Run.
func New(out io.Writer, format func(io.Writer) slog.Handler, opts Options) *Journal {
	j := &Journal{out: out, opts: opts.withDefaults(), room: make(chan struct{}), hurry: make(chan struct{}, 1), ended: make(chan struct{})}
	j.wake = sync.NewCond(&j.mu)
	for c := range class(classes) {
		j.root[c] = format(queue{j, c})
	}
	j.notice = format(notice{j})
	return j
}

// Handler is what a logger writes to the journal with.
func (j *Journal) Handler() slog.Handler { return handler{j, j.root} }

// Dropped is the number of records that were dropped so far, by level.
func (j *Journal) Dropped() map[string]uint64 {
	counts := make(map[string]uint64, classes)
	for c, name := range classNames {
		counts[name] = j.dropped[c].Load()
	}
	return counts
}

// Close has Run end when everything is written, and waits for that. It gives up
// after the timeout and then returns false: the output is stuck.
func (j *Journal) Close(timeout time.Duration) bool {
	j.mu.Lock()
	j.closed = true
	j.wake.Signal()
	j.mu.Unlock()
	j.hasten()
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	select {
	case <-j.ended:
		return true
	case <-limit.C:
		return false
	}
}

// How a queue tells the handler above it that a record cannot be queued.
var (
	errFull    = errors.New("the journal is full")
	errTooLong = errors.New("the record is longer than the journal")
)

// queue is where the handlers of one class write their text.
type queue struct {
	j *Journal
	c class
}

// Write queues one record. It never blocks. After a record was refused all are,
// until the next take: the notice of the drop stands where the gap is.
func (q queue) Write(text []byte) (int, error) {
	j := q.j
	if len(text) > j.opts.Bytes {
		return 0, errTooLong
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.full.Load() || len(j.queued.ends) >= j.opts.Records || len(j.queued.text)+len(text) > j.opts.Bytes {
		j.full.Store(true)
		return 0, errFull
	}
	j.queued.add(text, q.c)
	if len(j.queued.ends) == 1 {
		j.wake.Signal()
	}
	if q.c == classOf(slog.LevelError) {
		j.hasten()
	}
	return len(text), nil
}

// hasten has Run write now what is queued.
func (j *Journal) hasten() {
	select {
	case j.hurry <- struct{}{}:
	default:
	}
}

// drop counts a record that is not queued.
func (j *Journal) drop(c class) {
	j.dropped[c].Add(1)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lost[c]++
}

// awaitRoom waits until the writer has taken the queue, and reports whether it
// did. If one record has waited in vain, the next ones do not wait at all until
// the output takes text again: a caller that logs ten errors loses one wait.
func (j *Journal) awaitRoom(limit *time.Timer) bool {
	j.mu.Lock()
	room, stuck := j.room, j.stuck
	j.mu.Unlock()
	if stuck {
		return false
	}
	select {
	case <-room:
		return true
	case <-limit.C:
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if room != j.room {
		return true
	}
	j.stuck = true
	return false
}
