// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// slow answers an ADD when it is let.
type slow struct {
	fake
	began chan string
	end   chan struct{}
}

func (s *slow) Add(ctx context.Context, r Request) (Reply, error) {
	s.began <- r.ContainerID
	select {
	case <-s.end:
	case <-ctx.Done():
	}
	return Reply{Verdict: Ignore}, nil
}

func TestASandboxHasABoundedNumberOfRequestsUnderWay(t *testing.T) {
	h := &slow{began: make(chan string), end: make(chan struct{})}
	client := Client{Socket: serve(t, h)}
	greedy, other := pod(), pod()
	other.ContainerID = "other"
	var waiting sync.WaitGroup
	ask := func(r Request) {
		waiting.Go(func() {
			if _, err := client.Add(t.Context(), r); err != nil {
				t.Errorf("%s: %v", r.ContainerID, err)
			}
		})
		<-h.began
	}
	for range maxPerSandbox {
		ask(greedy)
	}
	_, err := client.Add(t.Context(), greedy)
	if want := fmt.Sprintf("sandbox %s has %d requests under way already", greedy.ContainerID, maxPerSandbox); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("one more: %v, want %q", err, want)
	}
	ask(other) // nobody else waits for it
	close(h.end)
	waiting.Wait()
	go func() { <-h.began }()
	if _, err := client.Add(t.Context(), greedy); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestRequestsUnderWayAreBoundedInAll(t *testing.T) {
	g := &gate{busy: map[string]int{}}
	for i := range maxAtOnce {
		if err := g.enter(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.enter("one more"); err == nil || !strings.Contains(err.Error(), "512 requests are under way") {
		t.Errorf("one more: %v", err)
	}
	g.leave("7")
	if err := g.enter("one more"); err != nil {
		t.Error(err)
	}
	for i := range maxAtOnce {
		if i != 7 {
			g.leave(fmt.Sprint(i))
		}
	}
	g.leave("one more")
	if g.total != 0 || len(g.busy) != 0 {
		t.Errorf("%d requests are left: %v", g.total, g.busy)
	}
}
