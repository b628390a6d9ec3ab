// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/culvert-mesh/culvert/regular"
)

const (
	// settle is how long a file must look the same before it counts: a writer may not be
	// done.
	settle = 100 * time.Millisecond
	// lookEvery is how often a file is read without an event.
	lookEvery = 2 * time.Second
)

// Take puts the set of a text in force, or keeps the one in force if it is wrong. What
// changes is logged, an error once. It is how every source of the set ends.
func (s *Set) Take(text []byte, version uint64, from string, log *slog.Logger) error {
	entries, err := Parse(text)
	if err != nil {
		return s.Keep(fmt.Errorf("%s: %w", from, err), log)
	}
	s.replace(entries, version, from, log)
	return nil
}

// replace is Replace, logged.
func (s *Set) replace(entries []Entry, version uint64, from string, log *slog.Logger) {
	added, removed := s.Replace(version, entries)
	for _, e := range added {
		log.Warn("denied", logEntry, e.String(), logSource, from)
	}
	for _, e := range removed {
		log.Warn("denied no more", logEntry, e.String(), logSource, from)
	}
}

// Keep says why there is no other set than the one in force, if that is new. It returns
// the error.
func (s *Set) Keep(err error, log *slog.Logger) error {
	if s.fail(err) {
		log.Error("the deny set is not understood; the last good one stays in force", logError, err)
	}
	return err
}

// ReadFile takes the set of a file, once.
func (s *Set) ReadFile(path string, log *slog.Logger) error {
	text, err := regular.ReadFile(path, MaxText)
	if err != nil {
		return s.Keep(err, log)
	}
	return s.Take(text, modified(path), path, log)
}

// FollowFile takes the set of a file whenever that has changed, until ctx ends. A file
// that is gone, or wrong, changes nothing.
func (s *Set) FollowFile(ctx context.Context, path string, log *slog.Logger) error {
	return s.follow(ctx, path, log, func(text []byte) error { return s.Take(text, modified(path), path, log) })
}

// follow takes a file at once and whenever it may have changed.
func (s *Set) follow(ctx context.Context, path string, log *slog.Logger, take func(text []byte) error) error {
	events, end := watch(path, log)
	defer end()
	poll := time.NewTicker(lookEvery)
	defer poll.Stop()
	for {
		s.look(ctx, path, log, take)
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case <-poll.C:
		}
	}
}

// look takes the file if it was the same twice. If not, there will be another event, or
// a poll.
func (s *Set) look(ctx context.Context, path string, log *slog.Logger, take func(text []byte) error) {
	before, err := regular.ReadFile(path, MaxText)
	if err != nil {
		_ = s.Keep(err, log) // it is said
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(settle):
	}
	if text, err := regular.ReadFile(path, MaxText); err == nil && bytes.Equal(text, before) {
		_ = take(text) // likewise
	}
}

// modified numbers a file's set: the milliseconds of its last change; 0 if it is gone.
func modified(path string) uint64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return uint64(max(0, st.ModTime().UnixMilli()))
}

// watch tells of events in the file's directory: a file that is replaced is another one
// under the same name. Without a watch, polls are enough.
func watch(path string, log *slog.Logger) (events <-chan fsnotify.Event, end func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("the deny set cannot be watched; changes are seen late", logSource, path, logError, err)
		return nil, func() {}
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		log.Warn("the deny set cannot be watched; changes are seen late", logSource, path, logError, err)
	}
	go func() {
		for range w.Errors { // lost events: a poll sees it
		}
	}()
	return w.Events, func() { w.Close() }
}
