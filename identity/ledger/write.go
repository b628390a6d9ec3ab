// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// write puts what is queued into files until ctx ends. Lines that come while it writes are
// written together.
func (l *Ledger) write(ctx context.Context) {
	for ctx.Err() == nil {
		again := make(<-chan time.Time) // never
		err := l.flush()
		l.note(err)
		if err != nil {
			again = time.After(retryEvery)
		}
		select {
		case <-ctx.Done():
		case <-l.kick:
		case <-again:
		}
	}
}

// flush writes all that is queued. What could not be written stays.
func (l *Ledger) flush() error {
	for {
		l.mu.Lock()
		if l.writing == nil && len(l.queue) > 0 {
			next := l.queue[0]
			l.queue = l.queue[1:]
			l.writing = &next
		}
		c := l.writing
		l.mu.Unlock()
		if c == nil {
			return nil
		}
		l.busySince.Store(time.Now().UnixNano())
		err := l.store(c)
		l.busySince.Store(0)
		if err != nil {
			return err
		}
	}
}

// store writes the lines at the end of their file. A part that an attempt has written
// already is written over.
func (l *Ledger) store(c *chunk) error {
	out, err := l.output(c.number)
	if err != nil {
		return err
	}
	if _, err := out.WriteAt(c.lines, out.size); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out.size += int64(len(c.lines))
	l.written, l.writtenHash, l.writtenID, l.writing = c.seq, c.last, c.id, nil
	out.lines += c.count
	l.queued -= int64(len(c.lines))
	l.progressLocked()
	return nil
}

func (l *Ledger) progressLocked() {
	close(l.progress)
	l.progress = make(chan struct{})
}

// output is the file of that number, which is the one in use or the next. Only the writer
// opens files, and it does so without mu: a disk that hangs must not keep decisions.
func (l *Ledger) output(number uint64) (*output, error) {
	if out := l.lastOpen(); out != nil && out.number == number {
		return out, nil
	}
	if err := os.MkdirAll(l.opts.Dir, 0o700); err != nil {
		return nil, err
	}
	file, err := l.create(filepath.Join(l.opts.Dir, nameOfFile(l.opts.Replica, number)))
	if err != nil {
		return nil, err
	}
	syncDirectory(l.opts.Dir)
	out := &output{File: file, number: number}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, out)
	return out, nil
}

// lastOpen is the file that is written to, or nil.
func (l *Ledger) lastOpen() *output {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return nil
	}
	return l.open[len(l.open)-1]
}

// create makes a file that is not there.
func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// syncDirectory has the names of files be on disk. A file system that cannot is no reason
// to keep nothing.
func syncDirectory(path string) {
	if dir, err := os.Open(path); err == nil {
		_ = dir.Sync()
		dir.Close()
	}
}

// note changes between running and failing, by whether the last write went well.
func (l *Ledger) note(err error) {
	l.mu.Lock()
	was, since := l.state, l.since
	switch {
	case err == nil:
		l.state = StateRunning
	case was == StateRunning:
		l.state, l.since = StateFailing, time.Now()
	}
	is := l.state
	if was != is {
		l.progressLocked()
	}
	l.mu.Unlock()
	switch {
	case was == is:
	case is == StateFailing:
		l.opts.Log.Error("the ledger cannot be written; certificates are issued nevertheless, and what has no room is lost", logDirectory, l.opts.Dir, logError, err)
	default:
		l.opts.Log.Info("the ledger can be written again", logDirectory, l.opts.Dir, logFor, time.Since(since))
	}
}

// sync has lines be on disk, signs them now and then, and keeps to what may be kept, until
// ctx ends.
func (l *Ledger) sync(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	var pruned time.Time
	var number uint64
	state := StateRunning
	for {
		l.relink()
		l.mu.Lock()
		at, is := l.number, l.state
		if due := l.seq > l.signed && time.Since(l.told) >= checkpointEvery; due && is == StateRunning {
			l.tellMissingLocked()
			l.checkpointLocked()
		}
		l.mu.Unlock()
		l.wake()
		if err := l.settle(is); err != nil && state == StateRunning {
			l.opts.Log.Error("the ledger cannot be synced", logDirectory, l.opts.Dir, logError, err)
			state = StateFailing
		} else if err == nil {
			state = StateRunning
		}
		if at != number || time.Since(pruned) >= pruneEvery {
			number, pruned = at, time.Now()
			l.prune(pruned)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settle has all that is written be on disk, and then says so in the head. The head is signed
// by a key that a line on disk names: lines that wait for a full disk may name another one.
func (l *Ledger) settle(state State) error {
	now, said := time.Now().UTC(), l.head.said
	l.mu.Lock()
	c := Checkpoint{Replica: l.opts.Replica, Chain: l.writtenID, Seq: l.written, Hash: l.writtenHash.String(), Time: now, State: state, Boot: l.boot}
	open := l.open[:len(l.open):len(l.open)]
	all, before := l.signs.upTo(c.Seq, now), l.signs.upTo(said.Seq, now)
	l.mu.Unlock()
	if c.Seq == said.Seq && c.Chain == said.Chain && state == said.State || c.Seq == 0 {
		return nil
	}
	for _, out := range open {
		if err := out.Sync(); err != nil {
			c.Chain, c.Seq, c.Hash, c.State = said.Chain, said.Seq, said.Hash, StateFailing // that is all it may promise
			return errors.Join(fmt.Errorf("%s: %v", out.Name(), err), l.head.write(before.sign(c)))
		}
	}
	l.mu.Lock()
	for len(l.open) > 1 && len(open) > 1 && l.open[0] == open[0] { // it has its last line, and is synced
		l.open[0].Close()
		l.open, open = l.open[1:], open[1:]
	}
	l.mu.Unlock()
	c = all.sign(c)
	if err := l.head.write(c); err != nil {
		return err
	}
	l.mu.Lock()
	l.promised = c
	l.mu.Unlock()
	return nil
}

// relink finds out whether another hand has taken the file or the head away, and begins
// the next file or another head then. What was in the file is lost.
func (l *Ledger) relink() {
	if !l.linked(l.head.file) {
		if h, _, err := openHead(l.head.file.Name()); err == nil {
			l.opts.Log.Error("the head of the ledger was removed; another one is made", logDirectory, l.opts.Dir)
			l.head.close()
			l.head = h
		}
	}
	out := l.lastOpen()
	if out == nil || out.gone || l.linked(out.File) {
		return
	}
	out.gone = true
	l.opts.Log.Error("a file of the ledger was removed; the next one begins", logFile, out.Name())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Lost += out.lines
	if out.number == l.number {
		l.rotateLocked()
	}
}

// linked reports whether the file is where it was opened.
func linked(f *os.File) bool {
	there, err := os.Stat(f.Name())
	if err != nil {
		return false
	}
	own, err := f.Stat()
	return err == nil && os.SameFile(there, own)
}
