// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"
)

// JSON formats records as JSON lines: as slog.JSONHandler does, but with the level in
// lower case and the text under "message", as those who read logs of Istio's ztunnel
// ask for them.
func JSON(level slog.Leveler) func(io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	return func(w io.Writer) slog.Handler { return slog.NewJSONHandler(&renamed{w: w}, opts) }
}

// Text formats records for people, as slog.TextHandler does.
func Text(level slog.Leveler) func(io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	return func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, opts) }
}

// handler formats records into the queue of their class. The formatting ones
// do not know a record's level when they write; so there is one for each class.
type handler struct {
	j     *Journal
	inner [classes]slog.Handler
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner[0].Enabled(ctx, level)
}

// Handle queues r or drops it; the record is formatted when it returns.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	c := classOf(r.Level)
	urgent := r.Level >= slog.LevelError
	if !urgent && h.j.full.Load() {
		h.j.drop(c)
		return nil
	}
	r = spellDurations(r)
	err := h.inner[c].Handle(ctx, r)
	if urgent && errors.Is(err, errFull) {
		limit := time.NewTimer(h.j.opts.Wait)
		defer limit.Stop()
		for errors.Is(err, errFull) && h.j.awaitRoom(limit) {
			err = h.inner[c].Handle(ctx, r)
		}
	}
	if errors.Is(err, errFull) || errors.Is(err, errTooLong) {
		h.j.drop(c)
		return nil
	}
	return err
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs = spellAll(attrs)
	return h.derive(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

func (h handler) WithGroup(name string) slog.Handler {
	return h.derive(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

func (h handler) derive(change func(slog.Handler) slog.Handler) slog.Handler {
	for c := range h.inner {
		h.inner[c] = change(h.inner[c])
	}
	return h
}
