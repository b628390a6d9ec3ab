// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// chunk is what one write takes: several records, and no more than a
	// pipe takes in one piece (PIPE_BUF), so that the lines of processes that
	// share the pipe stay whole.
	chunk = 4096

	// busyPause is how long to wait when another process has made our output
	// non-blocking and it is full.
	busyPause = 10 * time.Millisecond

	// gatherTime is how long after a write the next one waits for more records.
	gatherTime = 5 * time.Millisecond
)

// Run writes what is queued until Close.
func (j *Journal) Run() {
	defer close(j.ended)
	var b batch
	torn := false // the output ends in a part of a record
	pause := time.NewTimer(gatherTime)
	defer pause.Stop()
	for {
		lost, ok := j.take(&b)
		if !ok {
			return
		}
		j.tell(&b, lost)
		var written int
		written, torn = j.write(&b, torn)
		j.failed(&b, written, lost)
		pause.Reset(gatherTime)
		select {
		case <-pause.C:
		case <-j.hurry:
		}
	}
}

// take waits for records and swaps the queue with the empty b. It returns what
// was dropped behind them, or false if the journal is closed and empty.
func (j *Journal) take(b *batch) (lost [classes]uint64, ok bool) {
	b.reset()
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.queued.ends) == 0 && !j.closed {
		j.wake.Wait()
	}
	if len(j.queued.ends) == 0 {
		return lost, false
	}
	*b, j.queued = j.queued, *b
	lost, j.lost = j.lost, lost
	j.stuck = false
	j.full.Store(false)
	close(j.room)
	j.room = make(chan struct{})
	return lost, true
}

// notice collects the text of the record that tells of drops.
type notice struct{ j *Journal }

func (n notice) Write(text []byte) (int, error) {
	n.j.told = append(n.j.told[:0], text...)
	return len(text), nil
}

// tell appends to b what was dropped behind it.
func (j *Journal) tell(b *batch, lost [classes]uint64) {
	var all uint64
	for _, n := range lost {
		all += n
	}
	if all == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log records were dropped: the log was not read, or could not be written", 0)
	r.AddAttrs(slog.Uint64(keyDropped, all), slog.Uint64(keyErrors, lost[classOf(slog.LevelError)]))
	if err := j.notice.Handle(context.Background(), r); err == nil {
		b.add(j.told, classOf(slog.LevelWarn))
	}
}

// failed counts the records of b from the first that was not written. A notice
// is no record of its own: what it told is still to be told.
func (j *Journal) failed(b *batch, written int, lost [classes]uint64) {
	if written == len(b.ends) {
		return
	}
	rest := b.classes[written:]
	if lost != [classes]uint64{} {
		rest = rest[:len(rest)-1]
	}
	for _, c := range rest {
		j.dropped[c].Add(1)
		lost[c]++
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for c, n := range lost {
		j.lost[c] += n
	}
}

// write writes b in chunks of whole records. It returns how many records came
// through before the output failed, and whether it failed within one.
func (j *Journal) write(b *batch, torn bool) (records int, nowTorn bool) {
	if torn {
		if _, err := j.push([]byte("\n")); err != nil {
			return 0, true
		}
	}
	from := 0
	for records < len(b.ends) {
		next := records + 1
		for next < len(b.ends) && b.ends[next]-from <= chunk {
			next++
		}
		n, err := j.push(b.text[from:b.ends[next-1]])
		if err != nil {
			for records < next && b.ends[records] <= from+n {
				records++
			}
			begin := 0
			if records > 0 {
				begin = b.ends[records-1]
			}
			return records, from+n > begin
		}
		from, records = b.ends[next-1], next
	}
	return records, false
}

// push writes text as long as the output takes it.
func (j *Journal) push(text []byte) (written int, err error) {
	for written < len(text) {
		n, err := j.out.Write(text[written:])
		written += n
		switch {
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(busyPause)
		case err != nil:
			return written, err
		}
	}
	return written, nil
}
