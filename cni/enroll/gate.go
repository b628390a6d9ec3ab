// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"fmt"
	"sync"
)

// What is answered at once. A runtime asks for one network of a sandbox after
// the other; more is one that gave up on answers, or a sandbox that takes the
// place of all others.
const (
	maxPerSandbox = 4
	maxAtOnce     = 512
)

// gate bounds the requests that are answered at once, of all and of each.
type gate struct {
	mu    sync.Mutex
	total int
	busy  map[string]int
}

func (g *gate) enter(who string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.busy[who] >= maxPerSandbox:
		return fmt.Errorf("%s has %d requests under way already", who, g.busy[who])
	case g.total >= maxAtOnce:
		return fmt.Errorf("%d requests are under way already", g.total)
	}
	g.total++
	g.busy[who]++
	return nil
}

func (g *gate) leave(who string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.busy[who]--; g.busy[who] == 0 {
		delete(g.busy, who)
	}
}

// through calls f if g has a place for who asks.
func through[In, Out any](g *gate, who func(In) string, f func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		if err := g.enter(who(in)); err != nil {
			return out, err
		}
		defer g.leave(who(in))
		return f(ctx, in)
	}
}
