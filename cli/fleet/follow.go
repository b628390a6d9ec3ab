// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"
)

const (
	listEvery  = 5 * time.Second // nodes come and go, and an upgrade replaces their pods
	retryEvery = time.Second
	atOnce     = 512 // streams at a time
)

// What a node told beside events.
const (
	Began   = "began"   // each node was asked once
	Silent  = "silent"  // no ztunnel of the node can be listened to
	Answers = "answers" // one can again
	Listens = "listens" // the node is new
	Gone    = "gone"    // the source has no ztunnel of the node any more
)

// Told is an event of a node, or a word about the node.
type Told struct {
	Node    string
	Target  string        // its Name, which may be an address where Node is the name behind it
	Event   Event         // if Word is empty
	Word    string        // Began, Silent, Answers, Listens or Gone
	Problem string        // of Silent
	For     time.Duration // of Answers: for how long nobody listened
	Nodes   int           // of Began: how many are listened to
}

// Follow listens to the /events of all ztunnels of a source, until ctx is done. tell is
// called by one goroutine at a time: a slow one has ztunnels drop events, which they count.
// Only what keeps it from finding any node is an error.
func Follow(ctx context.Context, source Source, query url.Values, tell func(Told)) error {
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return err
	}
	if len(targets) > atOnce {
		return fmt.Errorf("%d ztunnels: no more than %d can be listened to at a time", len(targets), atOnce)
	}
	f := &following{query: query, tell: tell, listeners: map[string]*listener{}, nodes: map[string]*nodeHeard{}}
	f.first.Add(len(targets))
	f.update(ctx, targets, f.first.Done)
	f.group.Go(func() {
		f.first.Wait()
		f.begin(ctx)
	})
	for wait(ctx, listEvery) {
		if targets, err := source.Ztunnels(ctx); err == nil { // else those of before
			f.update(ctx, targets, func() {})
		}
	}
	f.group.Wait()
	return nil
}

type following struct {
	query url.Values
	group sync.WaitGroup
	first sync.WaitGroup // targets that were not asked yet, of the first ones

	mu        sync.Mutex // guards what follows; held while tell runs
	tell      func(Told)
	began     bool
	listeners map[string]*listener  // by pod or address
	nodes     map[string]*nodeHeard // by name
}

// listener follows one target.
type listener struct {
	node string
	stop context.CancelFunc
}

// nodeHeard is a node, which has two ztunnels while one replaces the other.
type nodeHeard struct {
	targets, listening int
	heard              bool      // it has been listened to
	silent             time.Time // since when nobody listens; zero: somebody does, or did not try yet
}

// update begins to follow targets that are new, and lets those go that are not there.
func (f *following) update(ctx context.Context, targets []Target, asked func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := map[string]bool{}
	for _, t := range targets {
		key := t.Pod + t.Name
		there[key] = true
		if f.listeners[key] != nil || len(f.listeners) >= atOnce {
			asked()
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		f.listeners[key] = &listener{t.Name, stop}
		if f.nodes[t.Name] == nil {
			f.nodes[t.Name] = &nodeHeard{}
		}
		f.nodes[t.Name].targets++
		f.group.Go(func() { f.stay(ctx, t, sync.OnceFunc(asked)) })
	}
	for key, l := range f.listeners {
		if there[key] {
			continue
		}
		l.stop()
		delete(f.listeners, key)
		if f.nodes[l.node].targets--; f.nodes[l.node].targets == 0 {
			delete(f.nodes, l.node)
			f.tell(Told{Node: l.node, Target: l.node, Word: Gone})
		}
	}
}

// stay follows one target until ctx is done.
func (f *following) stay(ctx context.Context, t Target, asked func()) {
	defer asked()
	shown := t.Name
	for {
		listens := false
		err := t.events(ctx, f.query, func() {
			if listens = true; t.Pod == "" && shown == t.Name {
				shown = t.node(ctx).Name // an address says little
			}
			f.heard(t.Name, shown)
			asked()
		}, func(e Event) { f.event(ctx, t.Name, shown, e) })
		f.lost(ctx, t.Name, shown, listens, err)
		asked()
		if !wait(ctx, retryEvery) {
			return
		}
	}
}

func (f *following) event(ctx context.Context, name, shown string, e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() == nil {
		f.tell(Told{Node: shown, Target: name, Event: e})
	}
}

// heard says that a target of a node is listened to.
func (f *following) heard(name, shown string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil {
		return
	}
	n.listening++
	switch {
	case !n.silent.IsZero():
		f.tell(Told{Node: shown, Target: name, Word: Answers, For: time.Since(n.silent)})
	case f.began && !n.heard:
		f.tell(Told{Node: shown, Target: name, Word: Listens})
	}
	n.silent, n.heard = time.Time{}, true
}

// lost says that a target is not listened to any more, or could not be.
func (f *following) lost(ctx context.Context, name, shown string, listened bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil {
		return
	}
	if listened {
		n.listening--
	}
	if ctx.Err() == nil && n.listening == 0 && n.silent.IsZero() {
		n.silent = time.Now()
		f.tell(Told{Node: shown, Target: name, Word: Silent, Problem: err.Error()})
	}
}

func (f *following) begin(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.began = true
	nodes := 0
	for _, n := range f.nodes {
		if n.listening > 0 {
			nodes++
		}
	}
	if ctx.Err() == nil {
		f.tell(Told{Word: Began, Nodes: nodes})
	}
}

// wait reports whether ctx goes on after d.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
