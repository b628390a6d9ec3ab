// SPDX-License-Identifier: Apache-2.0

// Package file is the source that reads a directory of Kubernetes YAML: what
// would stand in a cluster's API server stands in files.
//
// The directory is watched, and read whole once it has been quiet for a moment.
// Decoding is strict: a field that does not exist is an error, since it may be a
// misspelt policy. Anything wrong leaves the last good snapshot in force, and
// the error names file, document and field.
package file

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
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
	Settle            time.Duration        // how long it must be quiet; 30 ms
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
	parsed  map[string]parsed // by file name
	shown   []listed          // what the last look saw
	reread  bool              // the last look failed in a way that a listing may not show
	inForce [sha256.Size]byte // the contents of the last good snapshot
	tries   int               // looks in a row that met somebody writing

	mu    sync.Mutex // guards stats
	stats source.Stats
}

// parsed is what a file meant when its contents had that sum.
type parsed struct {
	sum      [sha256.Size]byte
	contents contents
}

var _ source.Source = (*Source)(nil)

// New returns a source that reads dir; nothing is read before Run.
func New(dir string, o Options) *Source {
	if o.Settle <= 0 {
		o.Settle = 30 * time.Millisecond
	}
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	return &Source{
		dir: dir, options: o,
		build: source.Options{
			TrustDomain: o.TrustDomain, RootNamespace: o.RootNamespace, IgnoreIstioLabels: o.IgnoreIstioLabels,
		},
		parsed: map[string]parsed{},
	}
}

// Stats returns the counts of this moment.
func (s *Source) Stats() source.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// settleAtMost is how many settling times a busy directory may defer a look.
const settleAtMost = 10

// Run delivers a snapshot whenever the directory's contents changed and are
// good, until ctx ends; then it returns nil.
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
			if s.look(sink) {
				touch()
			}
		}
	}
}

func (s *Source) looksDifferent() bool {
	files, _ := list(s.dir)
	return !same(files, s.shown)
}

// maxTries is how many looks may meet a writer before it is said aloud.
const maxTries = 50

// look reads the directory and delivers what changed. It reports whether to
// look again soon, because somebody was writing.
func (s *Source) look(sink source.Sink) (again bool) {
	snapshot, sum, stats, err := s.load()
	if transient(err) {
		if s.tries++; s.tries < maxTries {
			return true
		}
	}
	s.tries = 0
	if err != nil {
		s.fail(err)
		return false
	}
	if s.recovered(); s.stats.Generation > 0 && sum == s.inForce {
		return false
	}
	s.inForce = sum
	s.mu.Lock()
	s.stats.Generation++
	s.stats.InForce, s.stats.Files, s.stats.Objects = time.Now(), stats.Files, stats.Objects
	snapshot.Version = s.stats.Generation
	s.mu.Unlock()
	s.options.Log.Debug("snapshot", logDir, s.dir, logVersion, snapshot.Version, logFiles, stats.Files, logObjects, stats.Objects)
	sink(snapshot)
	return false
}

// transient reports whether a file was written or replaced while we read; a
// link may also point nowhere while the kubelet changes a ConfigMap.
func transient(err error) bool {
	var files report // and not the directory itself
	return errors.As(err, &files) &&
		(errors.Is(files, errChanging) || errors.Is(files, errEmpty) || errors.Is(files, fs.ErrNotExist))
}

// load reads the whole directory; an error holds everything that is wrong.
func (s *Source) load() (source.Snapshot, [sha256.Size]byte, source.Stats, error) {
	var stats source.Stats
	files, err := list(s.dir)
	s.shown, s.reread = files, err != nil
	if err != nil {
		return source.Snapshot{}, [sha256.Size]byte{}, stats, fmt.Errorf("read %s: %w", s.dir, err)
	}
	sum := sha256.New()
	fresh := make(map[string]parsed, len(files))
	all := make([]contents, 0, len(files))
	var errs report
	for _, f := range files {
		p, err := s.parse(f)
		if err != nil {
			errs, s.reread = append(errs, fmt.Errorf("%s: %w", f.name, pathless(err))), true
			continue
		}
		fresh[f.name] = p
		all = append(all, p.contents)
		stats.Objects += len(p.contents.entries)
		fmt.Fprintf(sum, "%q %x\n", f.name, p.sum)
	}
	s.parsed, stats.Files = fresh, len(files)
	objects, wrong := merge(all)
	if errs = append(errs, wrong...); len(errs) > 0 {
		return source.Snapshot{}, [sha256.Size]byte{}, stats, errs
	}
	snapshot, err := source.Build(objects, s.build)
	return snapshot, [sha256.Size]byte(sum.Sum(nil)), stats, err
}

// parse reads a file, and decodes it unless it still means what it meant.
func (s *Source) parse(f listed) (parsed, error) {
	if f.err != nil {
		return parsed{}, f.err
	}
	data, err := read(filepath.Join(s.dir, f.name))
	if err != nil {
		return parsed{}, err
	}
	sum := sha256.Sum256(data)
	if old, ok := s.parsed[f.name]; ok && old.sum == sum {
		return old, nil
	}
	p := parsed{sum: sum, contents: decode(f.name, data)}
	for _, note := range p.contents.ignored {
		s.options.Log.Debug("ignored: not a kind that the mesh needs", logObject, note)
	}
	return p, nil
}

// fail says what is wrong, once per problem.
func (s *Source) fail(err error) {
	s.mu.Lock()
	s.stats.Failures++
	known := s.stats.LastError == err.Error()
	s.stats.LastError = err.Error()
	s.mu.Unlock()
	if known {
		return
	}
	what := "workloads and policies are not understood; the last good ones stay in force"
	if s.stats.Generation == 0 {
		what = "workloads and policies are not understood; none were read before, so none are in force and pods wait"
	}
	s.options.Log.Error(what, logDir, s.dir, logError, err)
	s.options.OnError(err)
}

func (s *Source) recovered() {
	s.mu.Lock()
	was := s.stats.LastError
	s.stats.LastError = ""
	s.mu.Unlock()
	if was != "" {
		s.options.Log.Info("workloads and policies can be read again", logDir, s.dir)
	}
}
