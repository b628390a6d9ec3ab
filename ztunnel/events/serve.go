// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

const (
	writeTimeout = 10 * time.Second // whoever takes nothing for so long is let go
	quiet        = 15 * time.Second // after which an empty line tells that the stream lives
)

// ServeHTTP writes events as JSON lines until the client goes. An empty line says that
// nothing happened for a while.
func (s *Stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	filter, err := ParseFilter(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l, err := s.Listen(filter)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer l.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	if control.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil || control.Flush() != nil {
		return
	}
	for l.copy(r.Context(), w) == nil && control.Flush() == nil {
	}
}

// copy writes what comes next. A client that went is an error.
func (l *Listener) copy(ctx context.Context, w http.ResponseWriter) error {
	waiting, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	events, err := l.Next(waiting)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if err != nil {
		_, err := w.Write([]byte("\n"))
		return err
	}
	lines := json.NewEncoder(w)
	for i := range events {
		if err := lines.Encode(&events[i]); err != nil {
			return err
		}
	}
	return nil
}
