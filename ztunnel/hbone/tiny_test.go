// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// HTTP/2 stacks close the tunnel of a peer that sends them floods of tiny
// frames. An app that only ever sends, a few bytes at a time, must not look so.
func TestTinyWritesWithoutAnAnswerAreCollected(t *testing.T) {
	const writes = 5000
	frames, bytes := 0, 0
	done := make(chan struct{})
	l := greetedServer(t, func(p *rawPeer) {
		defer close(done)
		p.until(is[*http2.MetaHeadersFrame])
		p.must(p.writeHeaders(1, false, ":status", "200"))
		for bytes < writes {
			f := p.until(is[*http2.DataFrame]).(*http2.DataFrame)
			bytes += len(f.Data())
			if len(f.Data()) == 0 {
				t.Error("an empty DATA frame")
			}
			if len(f.Data()) < tinySize {
				frames++
			}
		}
	})
	a := l.open()
	start := time.Now()
	for range writes {
		a.write("x")
	}
	<-done
	if limit := tinyRate.Burst + 2 + tinyRate.PerSecond*time.Since(start).Seconds(); float64(frames) > limit {
		t.Errorf("%d tiny frames of %d bytes, want at most %v", frames, bytes, limit)
	}
}

// TestTinyMessagesWithAnswersAreNotDelayed would take a minute.
func TestTinyMessagesWithAnswersAreNotDelayed(t *testing.T) {
	l := newLink(t, nil)
	a := l.open()
	a.SetDeadline(time.Now().Add(patience))
	for range 20 * int(tinyRate.Burst) {
		a.write("ping")
		a.wantRead("ping")
	}
}
