// SPDX-License-Identifier: Apache-2.0

// Package file is the source that reads a directory of Kubernetes YAML: what
// would stand in a cluster's API server stands in files.
//
// The directory is watched, and read whole once it has been quiet for a moment.
// Decoding is strict: a field that does not exist is an error, since it may be a
// misspelt policy. An object that is wrong keeps its last good state, and the
// error names file, document and field. What would let somebody out of the mesh, or
// more of them in, is in force when its files have been the same for a second: one
// that is half written says less than it will.
package file

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// Options is how a directory is read.
type Options struct {
	TrustDomain       spiffeid.TrustDomain // required
	RootNamespace     string               // istio-system
	IgnoreIstioLabels bool                 // false
	Selectors         bool                 // see source.Options; false
	Settle            time.Duration        // how long it must be quiet; 30 ms
	Confirm           time.Duration        // how long a file must be the same before it lets more in; 1 s
	Poll              time.Duration        // how often to look without an event; 5 s
	OnError           func(error)          // each new problem, from Run, when Log has it; none
	Log               *slog.Logger         // discards
}

// Source reads one directory.
type Source struct {
	dir     string
	options Options
	build   source.Options

	// Only Run's goroutine uses these.
	parsed   map[string]parsed   // by file name
	files    map[string]standing // by file name, also of those that are gone
	shown    []listed            // what the last look saw
	looked   bool                // there was a look
	reread   bool                // the last look failed in a way that a listing may not show
	force    force
	told     map[string]bool // what was said
	tries    int             // looks in a row that met somebody writing
	held     time.Time       // since when something waits; zero: nothing does
	heldTold bool            // that it waits

	mu    sync.Mutex // guards stats
	stats source.Stats
}

// parsed is what a file meant when its contents had that sum.
type parsed struct {
	sum      sum
	contents contents
}

var _ source.Source = (*Source)(nil)

// New returns a source that reads dir; nothing is read before Run.
func New(dir string, o Options) *Source {
	o.Settle = cmp.Or(max(o.Settle, 0), 30*time.Millisecond)
	o.Confirm = cmp.Or(max(o.Confirm, 0), time.Second)
	o.Poll = cmp.Or(max(o.Poll, 0), 5*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	build := source.Options{
		TrustDomain: o.TrustDomain, RootNamespace: o.RootNamespace, IgnoreIstioLabels: o.IgnoreIstioLabels, Selectors: o.Selectors,
	}
	return &Source{
		dir: dir, options: o, build: build,
		parsed: map[string]parsed{}, files: map[string]standing{}, told: map[string]bool{},
		force: force{builder: source.NewBuilder(build), entries: map[key]entry{}, uids: map[string]key{}, shown: map[key]sum{}},
	}
}

func (s *Source) rootNamespace() string {
	return cmp.Or(s.options.RootNamespace, source.DefaultRootNamespace)
}

// Stats returns the counts of this moment.
func (s *Source) Stats() source.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// settleAtMost is how many settling times a busy directory may defer a look.
const settleAtMost = 10

// Run delivers a snapshot whenever what is in force has changed, until ctx ends;
// then it returns nil.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	watch, err := newWatch(s.dir)
	if err != nil {
		s.options.Log.Warn("cannot watch the directory; changes are seen late", logDir, s.dir, logAfter, s.options.Poll, logError, err)
	}
	defer watch.close()
	poll := time.NewTicker(s.options.Poll)
	defer poll.Stop()
	settle := time.NewTimer(0) // the first look is at once
	defer settle.Stop()
	var since time.Time // of the first event not yet looked at; zero: none

	touch := func() {
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < settleAtMost*s.options.Settle {
			settle.Reset(s.options.Settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.events:
			touch()
		case <-watch.errors: // events were lost
			touch()
		case <-poll.C:
			if watch.follow(); s.reread || s.looksDifferent() {
				touch()
			}
		case <-settle.C:
			since = time.Time{}
			watch.follow() // first, so that no event falls between look and watch
			if again := s.look(sink); again > 0 {
				settle.Reset(again)
			}
		}
	}
}

func (s *Source) looksDifferent() bool {
	files, _ := list(s.dir)
	return !same(files, s.shown)
}
