// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 500 * time.Millisecond
	mostPause  = 5 * time.Second
	mostNamed  = time.Minute // by the receiver
)

// refusal is an answer by which a batch is not to be sent again as it is.
type refusal struct{ error }

// later is an answer that names the time of the next attempt.
type later struct {
	error
	after time.Duration
}

// partly is an answer by which the receiver took a batch, but for some records.
type partly struct {
	records uint64
	why     string
}

func (p *partly) Error() string { return "the receiver rejected records: " + p.why }

// Run sends what is queued until ctx ends. What is queued then, or under way, has a while.
func (e *Exporter) Run(ctx context.Context) error {
	sending, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() {
		rest(sending, e.cfg.LastWords)
		cut()
	})()
	tick := time.NewTicker(e.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-e.wake:
		}
		over := ctx.Err() != nil // what is put from now on is nobody's
		for batch := e.take(); len(batch) > 0; batch = e.take() {
			e.deliver(sending, batch)
			if !over && !e.full() {
				break
			}
		}
		if over {
			e.tellCut()
			return nil
		}
	}
}

// tellCut tells of what the end cut off: nobody asks for metrics any more.
func (e *Exporter) tellCut() {
	if e.cut > 0 {
		e.cfg.Log.Warn("the end came before the receiver of connection records took the last", logEndpoint, e.cfg.Endpoint, logRecords, e.cut)
	}
}

// expire counts records that are too late, because they are too old or because sending ended.
func (e *Exporter) expire(sending context.Context, records int) {
	e.count(Expired, records)
	if sending.Err() != nil {
		e.cut += records
	}
}

func (e *Exporter) full() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.queue) >= batchMost
}

// deliver sends a batch until it is taken or refused, or too old. What is queued meanwhile
// waits behind it.
func (e *Exporter) deliver(ctx context.Context, batch [][]byte) {
	began, pause, lost := time.Now(), firstPause, false
	for {
		err := e.attempt(ctx, batch)
		var no refusal
		switch {
		case err == nil:
			if lost {
				e.cfg.Log.Info("the receiver of connection records takes them again", logEndpoint, e.cfg.Endpoint)
			}
			return
		case errors.As(err, &no):
			e.cfg.Log.Warn("the receiver of connection records refuses them", logEndpoint, e.cfg.Endpoint, logRecords, len(batch), logError, err)
			e.count(Refused, len(batch))
			return
		case time.Since(began) > e.cfg.GiveUp, ctx.Err() != nil:
			e.expire(ctx, len(batch))
			return
		case !lost:
			lost = true
			e.cfg.Log.Warn("the receiver of connection records does not take them: they wait", logEndpoint, e.cfg.Endpoint, logError, err)
		}
		wait := pause/2 + rand.N(pause/2)
		var named later
		if errors.As(err, &named) {
			wait = max(wait, min(named.after, mostNamed))
		}
		if pause = min(2*pause, mostPause); !rest(ctx, wait) {
			e.expire(ctx, len(batch))
			return
		}
	}
}

// attempt sends a batch once, and counts what arrived.
func (e *Exporter) attempt(ctx context.Context, batch [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	err := e.send(ctx, request(e.cfg.Resource, batch))
	var some *partly
	if errors.As(err, &some) {
		n := min(int(some.records), len(batch))
		e.cfg.Log.Warn("the receiver of connection records rejected some", logEndpoint, e.cfg.Endpoint, logRecords, n, logError, some.why)
		e.count(Refused, n)
		batch, err = batch[n:], nil
	}
	if err == nil {
		e.count(Sent, len(batch))
	}
	return err
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
