// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Recent is a Store that answers strangers, who may ask without end, without a read for
// each. What it says of a token may be outdated by a second: Redeem alone decides.
type Recent interface {
	Store
	// Known is the Record of an ID, if a read of the last second has one. It does not wait.
	Known(id string) (Record, bool)
	// FindSoon is Find for an ID that is not Known. Its reads begin a second apart, however
	// many callers wait for them. It wraps ErrUnknown only by a read that began after the
	// call: a token that was made before is found.
	FindSoon(ctx context.Context, id string) (Record, error)
}

const (
	// recentFor is how long a read counts once it has returned, and how far apart reads
	// begin. So one that takes less than a second returns while the one before counts.
	recentFor = time.Second
	// recentWithin is how long such a read may take.
	recentWithin = 2 * time.Second
)

// recent is what was read last.
type recent struct {
	flight singleflight.Group // of reads

	mu    sync.Mutex // guards what follows
	last  copied
	reads int       // that have begun
	began time.Time // the last of them, whatever became of it
}

// copied is an Object's data. They are not changed.
type copied struct {
	data   map[string][]byte
	number int // of the read
	ended  time.Time
}

// Known is part of Recent.
func (o *inObject) Known(id string) (Record, bool) {
	o.recent.mu.Lock()
	last := o.recent.last
	o.recent.mu.Unlock()
	if time.Since(last.ended) >= recentFor {
		return Record{}, false
	}
	r, err := o.find(last.data, id)
	return r, err == nil
}

// FindSoon is part of Recent.
func (o *inObject) FindSoon(ctx context.Context, id string) (Record, error) {
	if err := checkID(id); err != nil {
		return Record{}, ErrUnknown
	}
	o.recent.mu.Lock()
	before := o.recent.reads
	o.recent.mu.Unlock()
	for {
		// The read serves others, too, so it does not end with this caller.
		reading := o.recent.flight.DoChan("", func() (any, error) { return o.readSoon(context.WithoutCancel(ctx)) })
		select {
		case read := <-reading:
			if read.Err != nil {
				return Record{}, read.Err
			}
			c := read.Val.(copied)
			if r, err := o.find(c.data, id); !errors.Is(err, ErrUnknown) || c.number > before {
				return r, err
			}
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}

// readSoon reads the object, a second after the last such read began.
func (o *inObject) readSoon(ctx context.Context) (copied, error) {
	o.recent.mu.Lock()
	due := o.recent.began.Add(recentFor)
	o.recent.mu.Unlock()
	time.Sleep(time.Until(due))
	ctx, cancel := context.WithTimeoutCause(ctx, recentWithin, errors.New("no answer within "+recentWithin.String()))
	defer cancel()
	o.recent.mu.Lock()
	o.recent.reads++
	o.recent.began = time.Now()
	c := copied{number: o.recent.reads}
	o.recent.mu.Unlock()
	data, _, err := o.Read(ctx)
	if err != nil {
		return copied{}, err
	}
	c.data, c.ended = data, time.Now()
	o.recent.mu.Lock()
	defer o.recent.mu.Unlock()
	o.recent.last = c
	return c, nil
}
