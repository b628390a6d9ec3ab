// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// A peer that reads nothing must not have us keep the first bytes of all apps
// whose streams it refuses.
func TestFirstBytesDoNotPileUpBehindAStalledWriter(t *testing.T) {
	l := newLink(t, nil)
	c := l.open().s.c
	waitUntil(t, c.writer.becomeLeader) // one that is stuck
	l.pool.mu.Lock()
	l.pool.of(l.key).added = time.Now() // it asks for no other tunnel
	l.pool.mu.Unlock()
	const streams = 20
	var openings []*opening
	for range streams {
		near, far := socketPair(t)
		far.Write(make([]byte, earlyLimit))
		openings = append(openings, l.openFor(t, near, far))
	}
	pending := 0
	waitUntil(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		pending = c.writer.queued()
		return c.nextID == 1+2*(1+streams) && pending >= earlyBacklog
	})
	if most := earlyBacklog + earlyLimit + streams*100; pending > most {
		t.Errorf("%d bytes wait, want at most %d", pending, most)
	}
	c.writer.endLead()
	for _, o := range openings {
		o.far.CloseWrite()
		if r := <-o.done; r.err != nil {
			t.Error(r.err)
		}
	}
}

// becomeLeader reports false while somebody else is, as after the greeting.
func (w *writer) becomeLeader() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.leading
	w.leading = true
	return !was
}

func (w *writer) endLead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLeadUnlocking()
}

// queued is how many bytes of frames wait.
func (w *writer) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.control)
}

func TestNoStreamIsOpenedBehindAFullBacklog(t *testing.T) {
	local := netip.MustParseAddrPort("10.0.0.2:15008")
	for _, client := range []bool{true, false} {
		c := newConn(client, nowhere{}, proof{local: local}, &hooks{})
		c.streamLimit = 5
		c.writer.leading = true // and stuck
		greeting := h2.AppendSettings(nil)
		if !client {
			greeting = append([]byte(h2.Preface), greeting...)
		}
		if err := c.feed(greeting); err != nil {
			t.Fatal(err)
		}
		c.writer.control = make([]byte, controlLimit+1)
		if client {
			if c.reserve(Target{Authority: local}) != nil {
				t.Error("a stream is opened")
			}
			continue
		}
		err := c.feed(h2.AppendBlock(nil, 1, 0, h2.AppendConnect(nil, Target{Authority: local}), h2.DefaultFrameLimit))
		var bad *tunnelError
		if !errors.As(err, &bad) || bad.Code != h2.CodeCalm {
			t.Errorf("a request is answered with %v", err)
		}
	}
}
