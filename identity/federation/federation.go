// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/regular"
)

// Options say which trust domains there are.
type Options struct {
	CA    *ca.CA       // required
	File  string       // of domains, as Parse reads it; required
	State string       // directory that keeps bundles over restarts; none
	Log   *slog.Logger // slog.Default()
}

// Federation keeps the bundles of other trust domains.
type Federation struct {
	opts Options

	mu        sync.Mutex // guards what follows
	text      []byte     // of the file, as it is in force
	number    uint64     // of its list; 0: it has none
	followers map[spiffeid.TrustDomain]*follower
	problem   string // of the file; empty: none
	told      ca.Federations
	toldAt    time.Time
	pace      rate.Left // of what others change
}

// New reads the file, and what was kept. What of the file is wrong is left out, which Trouble
// says: a neighbour's file is no reason not to issue certificates.
func New(opts Options) (*Federation, error) {
	if opts.CA == nil || opts.File == "" {
		return nil, errors.New("federation: CA and File are required")
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	f := &Federation{opts: opts, followers: map[spiffeid.TrustDomain]*follower{}}
	text, list, err := f.read()
	if err != nil {
		list.Number = 0 // a part of the list is not the list of that number
	}
	f.apply(text, list, nil)
	if err != nil {
		f.problem = err.Error()
		opts.Log.Error("the file of federations is not understood; what can be read of it is in force", logError, err)
		return f, nil
	}
	f.clean()
	return f, nil
}

// clean forgets the domains that left the file while nobody looked.
func (f *Federation) clean() {
	for _, td := range listed(f.opts.State) {
		if f.followers[td] == nil {
			forget(f.opts.State, td)
			f.opts.Log.Warn("another trust domain is federated with no more", logTrustDomain, td.Name())
		}
	}
}

// read returns what can be read of the file, and all that is wrong with it. A domain whose
// bundle file is wrong is among the domains: a bundle of it may be known.
func (f *Federation) read() ([]byte, List, error) {
	text, err := regular.ReadFile(f.opts.File, maxFile)
	if err != nil {
		return nil, List{}, err
	}
	var problems []error
	list, err := Parse(text, f.opts.CA.TrustDomain())
	if err != nil {
		problems = append(problems, fmt.Errorf("%s: %w", f.opts.File, err))
	}
	for _, d := range list.Domains {
		if d.Profile == HTTPSSPIFFE {
			if _, _, err := d.begin(); err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %w", f.opts.File, d.TrustDomain, err))
			}
		}
	}
	return text, list, errors.Join(problems...)
}

// Run fetches bundles, and follows the file, until ctx ends. A file that is wrong, or gone,
// changes nothing then.
func (f *Federation) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	start := func(one *follower) {
		own, stop := context.WithCancel(ctx)
		one.stop = stop
		running.Go(func() { one.run(own) })
	}
	f.mu.Lock()
	for _, one := range f.followers {
		start(one)
	}
	f.mu.Unlock()
	poll := time.NewTicker(lookEvery)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			f.look(start)
			f.publish()
		}
	}
}

// look takes the file if it is another one than before.
func (f *Federation) look(start func(*follower)) {
	text, err := regular.ReadFile(f.opts.File, maxFile)
	f.mu.Lock()
	same := err == nil && bytes.Equal(text, f.text) && f.problem == ""
	f.mu.Unlock()
	if same {
		return
	}
	text, list, err := f.read()
	if err == nil {
		err = f.follows(list)
	}
	if err != nil {
		f.mu.Lock()
		said := f.problem == err.Error()
		f.problem = err.Error()
		f.mu.Unlock()
		if !said {
			f.opts.Log.Error("the file of federations is not understood; the last good one stays in force", logError, err)
		}
		return
	}
	f.apply(text, list, start)
}

// follows says why a list may not follow the one in force. One that changed and kept its number
// may: then nodes cannot tell which of two replicas is behind, as if there were none.
func (f *Federation) follows(next List) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case next.Number != 0 && next.Number < f.number:
		return fmt.Errorf("%s: number: %d is less than %d of the list in force: nodes would not go by it", f.opts.File, next.Number, f.number)
	case next.Number == f.number && f.number != 0 && !f.lists(next.Domains):
		f.opts.Log.Warn("the list of other trust domains was changed and has the same number: give it a greater one, so that no replica that is behind changes it back", logNumber, next.Number)
	}
	return nil
}

// lists reports whether exactly these domains are in force; f.mu is held.
func (f *Federation) lists(domains []Domain) bool {
	for _, d := range domains {
		if f.followers[d.TrustDomain] == nil {
			return false
		}
	}
	return len(domains) == len(f.followers)
}

// apply has the domains be those of a file. A domain that stays keeps its bundle.
func (f *Federation) apply(text []byte, list List, start func(*follower)) {
	for _, gone := range f.replace(text, list, start) {
		forget(f.opts.State, gone)
		f.opts.Log.Warn("another trust domain is federated with no more", logTrustDomain, gone.Name())
	}
}

func (f *Federation) replace(text []byte, list List, start func(*follower)) (gone []spiffeid.TrustDomain) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.number, f.problem = text, list.Number, ""
	next := map[spiffeid.TrustDomain]*follower{}
	for _, d := range list.Domains {
		before := f.followers[d.TrustDomain]
		if before != nil && before.domain == d {
			next[d.TrustDomain] = before
			continue
		}
		next[d.TrustDomain] = f.follow(d, before)
	}
	for td, one := range f.followers {
		if next[td] == one {
			continue
		}
		if one.stop != nil {
			one.stop()
		}
		if next[td] == nil {
			gone = append(gone, td)
		}
	}
	for td, one := range next {
		if start != nil && f.followers[td] != one {
			start(one)
		}
	}
	f.followers = next
	f.publishLocked(true)
	return gone
}

// copied is the trust domain that policies written for another mesh are most likely to name.
const copied = "cluster.local"

// follow returns a follower that has not begun yet, with what is known.
func (f *Federation) follow(d Domain, before *follower) *follower {
	one := &follower{of: f, domain: d, since: time.Now()}
	if before == nil && d.TrustDomain.Name() == copied {
		f.opts.Log.Warn("policies that name principals of cluster.local, as those copied from Istio do for their own mesh, let in the federated domain of that name", logTrustDomain, copied)
	}
	if before != nil {
		one.known, one.roots, one.failures, one.since, one.dropped = before.known, before.roots, before.failures, before.since, before.dropped
		return one
	}
	var err error
	if one.known, err = restore(f.opts.State, d.TrustDomain, f.opts.CA.Roots()); err != nil {
		f.opts.Log.Warn("what was kept of another trust domain's bundle is ignored", logTrustDomain, d.TrustDomain.Name(), logError, err)
	}
	one.roots, _ = one.known.roots() // restore has read them
	f.opts.Log.Info("federated with another trust domain", logTrustDomain, d.TrustDomain.Name(), logSequence, one.known.Sequence, logRoots, len(one.roots))
	return one
}

// publish tells the CA what publishLocked put off.
func (f *Federation) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publishLocked(false)
}

// publishLocked tells the CA. Each node hears of it, so what others change is put off beyond
// pushRate, and a number without another root until there are others, or for numberEvery. What
// the operator changes is told at once.
func (f *Federation) publishLocked(operator bool) {
	all := make([]ca.Foreign, 0, len(f.followers))
	for _, one := range f.followers {
		all = append(all, one.foreign())
	}
	slices.SortFunc(all, func(a, b ca.Foreign) int { return cmp.Compare(a.TrustDomain.Name(), b.TrustDomain.Name()) })
	if !operator {
		roots, numbers := differ(f.told.All, all)
		if !roots && (!numbers || time.Since(f.toldAt) < numberEvery) || !f.pace.Spend(pushRate) {
			return
		}
	}
	f.told, f.toldAt = ca.Federations{Number: f.number, All: all}, time.Now()
	f.opts.CA.Federate(f.told)
}

// differ reports whether two say other domains or roots, and whether other numbers.
func differ(a, b []ca.Foreign) (roots, numbers bool) {
	if len(a) != len(b) {
		return true, true
	}
	for i := range a {
		roots = roots || a[i].TrustDomain != b[i].TrustDomain || !sameRoots(a[i].Roots, b[i].Roots)
		numbers = numbers || a[i].Sequence != b[i].Sequence
	}
	return roots, numbers
}

// Status is how it stands with one trust domain. Programs read it: names stay.
type Status struct {
	TrustDomain    string    `json:"trustDomain"`
	URL            string    `json:"url"`
	Profile        Profile   `json:"profile"`
	Sequence       uint64    `json:"sequence,omitempty"`
	Roots          int       `json:"roots"`             // 0: no bundle came yet
	Fetched        time.Time `json:"fetched,omitzero"`  // the last time; zero: never
	AgeSeconds     float64   `json:"ageSeconds"`        // since then, or since it is wanted
	RefreshSeconds float64   `json:"refreshSeconds"`    // how often it should be fetched
	Failures       uint64    `json:"failures"`          // of this process
	Problem        string    `json:"problem,omitempty"` // of the last attempt
	Dropped        int       `json:"bundleFileDropped"` // roots of bundleFile that the bundle has no more
}

// Status is that of all domains, by name.
func (f *Federation) Status() []Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]Status, 0, len(f.followers))
	for _, one := range f.followers {
		k := one.known
		s := Status{
			TrustDomain: one.domain.TrustDomain.Name(), URL: one.domain.URL, Profile: one.domain.Profile,
			Sequence: k.Sequence, Roots: len(one.roots), Fetched: k.Fetched, Failures: one.failures, Problem: one.problem, Dropped: one.dropped,
			RefreshSeconds: cmp.Or(k.Refresh, DefaultRefresh).Seconds(),
		}
		since := k.Fetched
		if since.IsZero() {
			since = one.since
		}
		s.AgeSeconds = max(0, time.Since(since).Seconds())
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
	return all
}

// Trouble is why the file in force is not the one that was written last; empty: it is.
func (f *Federation) Trouble() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problem
}
