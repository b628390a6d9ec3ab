// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams  = 64 // browsers that follow
	maxOfViewer = 16 // of them, those of one viewer, if viewers have names

	writeWithin = 10 * time.Second // whoever takes nothing for so long is let go
	quiet       = 15 * time.Second // after which a comment tells that the stream lives
)

// streams counts who follows.
type streams struct {
	mu  sync.Mutex // guards what follows
	all int
	of  map[string]int // by viewer
}

func (s *streams) enter(viewer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || viewer != "" && s.of[viewer] >= maxOfViewer {
		return false
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.all, s.of[viewer] = s.all+1, s.of[viewer]+1
	return true
}

func (s *streams) leave(viewer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all, s.of[viewer] = s.all-1, s.of[viewer]-1; s.of[viewer] == 0 {
		delete(s.of, viewer)
	}
}

// live sends each moment as it comes. A reader that is slow gets the last one next: what it
// missed is in the graph. Whether the viewer may still see it is asked each time.
func (s *Server) live(w http.ResponseWriter, r *http.Request, _ Sight, viewer string) {
	if !s.streams.enter(viewer) {
		http.Error(w, fmt.Sprintf("%d pages follow already, or %d of yours", maxStreams, maxOfViewer), http.StatusServiceUnavailable)
		return
	}
	defer s.streams.leave(viewer)
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Time{}) != nil { // that of a request would end the stream
		return
	}
	for {
		changed := s.History.Changed()
		sight, _, err := s.Gate.Sight(r)
		if err != nil {
			return // the page asks again, and hears why
		}
		if err := control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			return
		}
		if tick, any := s.History.Tick(sight); any {
			text, err := json.Marshal(tick)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "event: tick\ndata: %s\n\n", text); err != nil {
				return
			}
		} else if _, err := fmt.Fprint(w, ": nothing yet\n\n"); err != nil {
			return
		}
		if control.Flush() != nil || !s.rest(w, r, changed) {
			return
		}
	}
}

// rest waits for the next moment; false: the reader is gone.
func (s *Server) rest(w http.ResponseWriter, r *http.Request, changed <-chan struct{}) bool {
	alive := time.NewTicker(quiet)
	defer alive.Stop()
	control := http.NewResponseController(w)
	for {
		select {
		case <-changed:
			return true
		case <-r.Context().Done():
			return false
		case <-alive.C:
			if control.SetWriteDeadline(time.Now().Add(writeWithin)) != nil {
				return false
			}
			if _, err := fmt.Fprint(w, ": still here\n\n"); err != nil || control.Flush() != nil {
				return false
			}
		}
	}
}
