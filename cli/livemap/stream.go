// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams  = 64 // browsers that follow
	maxOfViewer = 16 // of them, those of one viewer, if viewers have names

	writeWithin = 10 * time.Second // whoever takes nothing for so long is let go
	quiet       = 15 * time.Second // after which a comment tells that the stream lives

	gather = 500 * time.Millisecond // for so long refusals are gathered before they are sent
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

// live sends each moment as it comes, and what is refused between two of them. A reader that
// is slow gets the last one next: what it missed is in the graph. Whether the viewer may still
// see it is asked each time.
func (s *Server) live(w http.ResponseWriter, r *http.Request, _ Sight, viewer string) {
	if !s.streams.enter(viewer) {
		http.Error(w, fmt.Sprintf("%d pages follow already, or %d of yours", maxStreams, maxOfViewer), http.StatusServiceUnavailable)
		return
	}
	defer s.streams.leave(viewer)
	defer s.History.audience.enter()()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Time{}) != nil { // that of a request would end the stream
		return
	}
	said := said{}
	for {
		changed, told := s.History.signals()
		sight, _, err := s.Gate.Sight(r)
		if err != nil {
			return // the page asks again, and hears why
		}
		if err := control.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			return
		}
		text, err := s.History.next(sight, &said)
		if err != nil {
			return
		}
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
		if control.Flush() != nil || !s.rest(w, r, changed, told) {
			return
		}
	}
}

// said is what a reader has heard.
type said struct {
	moment time.Time
	news   string // since then
}

// next is the last moment, if the reader does not have it, or what is refused since. It is
// empty if that is nothing that the viewer sees: that somebody else was refused is not told.
func (h *History) next(s Sight, to *said) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.frames)
	if n == 0 {
		return ": nothing yet\n\n", nil
	}
	s = h.local(s)
	if at := h.frames[n-1].at; !at.Equal(to.moment) {
		*to = said{moment: at}
		return event("tick", h.tick(s))
	}
	news := h.news(s)
	if len(news.Refusals) == 0 && news.Late == 0 && to.news == "" {
		return "", nil
	}
	text, err := event("refused", news)
	if text == to.news {
		return "", err
	}
	to.news = text
	return text, err
}

func event(name string, v any) (string, error) {
	text, err := json.Marshal(v)
	return fmt.Sprintf("event: %s\ndata: %s\n\n", name, text), err
}

// rest waits for the next moment, or for what is told, and a little longer for what comes with
// it; false: the reader is gone.
func (s *Server) rest(w http.ResponseWriter, r *http.Request, changed, told <-chan struct{}) bool {
	alive := time.NewTicker(quiet)
	defer alive.Stop()
	control := http.NewResponseController(w)
	var gathered <-chan time.Time
	for {
		select {
		case <-changed:
			return true
		case <-told:
			told, gathered = nil, time.After(gather)
		case <-gathered:
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
