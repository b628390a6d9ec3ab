// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const listenAgain = 5 * time.Second // after nobody was listened to

// Listen hears what nodes refuse as it happens, while somebody follows, until ctx is done.
// What a node cannot tell this way comes with its answers: it is no error.
func (h *History) Listen(ctx context.Context, source fleet.Source, log *slog.Logger) error {
	problem := ""
	for h.audience.come(ctx) {
		followed, stop := h.audience.during(ctx)
		err := fleet.Follow(followed, source, url.Values{"event": {"refused"}}, func(t fleet.Told) { h.hear(t, time.Now(), log) })
		if followed.Err() != nil {
			err = nil
		}
		stop()
		h.deafen()
		problem = tell(log, "refusals are not heard as they happen", problem, err)
		if !wait(ctx, listenAgain) {
			return nil
		}
	}
	return nil
}

// hear takes a word of a node.
func (h *History) hear(t fleet.Told, at time.Time, log *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
	switch {
	case t.Word == fleet.Silent:
		h.late.unheard[t.Target] = true
	case t.Word != "":
		delete(h.late.unheard, t.Target)
	case t.Event.Kind == "dropped":
		if h.late.dropped[t.Node] == 0 { // once while it drops
			log.Warn("a node refuses more than can be heard: the rest comes with its answers", "node", t.Node, "dropped", t.Event.Count)
		}
		h.late.dropped[t.Node] = 2
	case t.Event.Kind == "refused":
		h.refusals.hear(t.Node, &t.Event, at)
	}
	close(h.told)
	h.told = make(chan struct{})
}

// deafen forgets which nodes are not heard, as nobody is listened to.
func (h *History) deafen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
	clear(h.late.unheard)
}

// late is whose refusals come with their answers only.
type late struct {
	unheard map[string]bool // nodes that cannot be listened to
	dropped map[string]int  // nodes that told less than they refused, and for how many answers that is said
}

func (l *late) nodes() int {
	n := len(l.unheard)
	for node := range l.dropped {
		if !l.unheard[node] {
			n++
		}
	}
	return n
}

func (l *late) settle() {
	for node := range l.dropped {
		if l.dropped[node]--; l.dropped[node] == 0 {
			delete(l.dropped, node)
		}
	}
}

// audience is how many follow. While nobody does, nodes are not listened to, which costs
// them something for each connection. Its zero value is nobody.
type audience struct {
	mu      sync.Mutex // guards what follows
	n       int
	changed chan struct{} // closed when the first one comes, and when the last one leaves
}

// enter counts one more, until leave is called.
func (a *audience) enter() (leave func()) {
	a.add(1)
	return func() { a.add(-1) }
}

func (a *audience) add(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.n > 0
	if a.n += n; before != (a.n > 0) && a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// some reports whether anybody follows, and has a channel that is closed when that changes.
func (a *audience) some() (bool, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	return a.n > 0, a.changed
}

// come waits until somebody follows; false: ctx is done.
func (a *audience) come(ctx context.Context) bool {
	for {
		some, changed := a.some()
		if some || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// during returns a context that is done with ctx, or when nobody follows any more. stop ends
// it, and what waits for that.
func (a *audience) during(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		defer cancel()
		for ctx.Err() == nil {
			some, changed := a.some()
			if !some {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
	return ctx, func() { cancel(); group.Wait() }
}
