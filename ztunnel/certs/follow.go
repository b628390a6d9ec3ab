// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// followBackoff is the first window in which a stream that broke is opened again,
	// anywhere in it; it doubles with each failure up to maxFollowBackoff, so that a
	// CA that comes back is not met by all nodes at once.
	followBackoff    = 500 * time.Millisecond
	maxFollowBackoff = 30 * time.Second
	// noStreamFor is how long a CA is not asked again that has no streams: it may be
	// replaced by one that does.
	noStreamFor = 5 * time.Minute
)

// errNoStream says that the CA has no stream of bundles, as istiod.
var errNoStream = errors.New("the CA has no stream of bundles")

// Follower is what an Issuer may be besides: one that says which roots to trust
// whenever that changes, whether certificates are renewed or not.
type Follower interface {
	// Follow hands take each bundle that comes, and tells the CA of those for which
	// it returns nil. It returns when the stream ends, and says why; errNoStream if
	// the CA has none. known is what the node goes by so far, and rests what rests on
	// which root, whenever it is asked.
	Follow(ctx context.Context, known Bundle, take func(Bundle) error, rests func() []Rest) error
}

// following is how it stands with the stream; Store.mu guards it.
type following struct {
	connected bool // a bundle came on the stream that is open
	problem   string
	since     time.Time // when the bundle in force was taken
	heard     time.Time // until when the stream was open; by the monotonic clock
}

// age is for how long no stream was open.
func (f *following) age(now time.Time) time.Duration {
	if f.connected {
		return 0
	}
	return now.Sub(f.heard)
}

// cutOff is why this node makes no new tunnels, though nothing is wrong with its
// certificates: it does not hear whom it should not trust any more. It goes by the
// monotonic clock alone. s.mu is held.
func (s *Store) cutOff(now time.Time) error {
	for what, age := range map[string]time.Duration{"which roots it trusts": s.following.age(now), "whom it denies": s.denials.age(now)} {
		if s.cfg.MaxAge > 0 && age > s.cfg.MaxAge {
			return fmt.Errorf("%w: the CA has not said for %v %s, longer than %v", ErrCutOff, age.Round(time.Second), what, s.cfg.MaxAge)
		}
	}
	return nil
}

// follow keeps a stream open until ctx ends, to one replica of the CA at a time.
func (s *Store) follow(ctx context.Context, ca Follower) {
	window := followBackoff
	for ctx.Err() == nil {
		heard := false
		err := ca.Follow(ctx, s.said(), func(b Bundle) error {
			heard = true
			return s.take(b)
		}, s.rests)
		if ctx.Err() != nil {
			return
		}
		s.lose(err, heard)
		if heard {
			window = followBackoff
		}
		pause := rand.N(window)
		if errors.Is(err, errNoStream) {
			pause = noStreamFor/2 + rand.N(noStreamFor)
		}
		window = min(2*window, maxFollowBackoff)
		wait(ctx, pause, nil)
	}
}

func (s *Store) said() Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trust.said
}

// take puts a bundle of the stream in force.
func (s *Store) take(b Bundle) error {
	now := time.Now()
	s.mu.Lock()
	before := s.trust.said.Generation
	err := s.trust.say(b, now, s.longestLife())
	s.following.connected = true
	news, barred, later := "", false, s.trust.said.Generation != before
	judged := err == nil && s.file.judge()
	if later {
		s.following.since = now
	}
	changed := s.rebuild(now)
	if s.heedsForeign(err) {
		before, listed, l := s.barred != nil, s.listed, listing{b.Listed, b.Foreign, b.Sole}
		changed = s.federateLocked(l, now) || changed
		barred, judged = s.barred != nil && !before, judged || s.listed != listed
		if without := leftOut(l, s.listed); without != s.leftOut {
			s.leftOut, news = without, without
		}
	}
	tainted, left := s.renewTainted(b.Tainted, now)
	said := s.noteLocked(err)
	s.mu.Unlock()
	if said {
		s.cfg.Log.Warn("the CA's trust bundle is not taken as it is", logGeneration, b.Generation, logBundle, hexOf(b.Hash), logError, err)
	}
	if later {
		s.cfg.Log.Info("trust bundle taken", logGeneration, b.Generation, logBundle, hexOf(b.Hash), logRoots, len(b.Roots))
	}
	if news != "" {
		s.cfg.Log.Warn("roots of other trust domains are not taken; of those in force some may stay", logError, news)
	}
	if barred {
		s.cfg.Log.Warn("the CA names a trust domain or root again that it had withdrawn, without a greater number; it counts in "+behindFor.String(), logGeneration, b.Generation)
	}
	if tainted > 0 {
		s.cfg.Log.Warn("certificates of an authority that the CA has tainted are renewed at once", logCount, tainted)
		s.poke()
	}
	for _, id := range left {
		s.cfg.OnTainted(id)
	}
	switch {
	case changed:
		s.newBundle()
	case later, judged:
		s.save()
	}
	return err
}

// lose notes that the stream has ended. Each does after a while, and another is opened:
// that is a problem only if nothing was heard on it.
func (s *Store) lose(err error, heard bool) {
	s.mu.Lock()
	if s.following.connected {
		s.following.connected, s.following.heard = false, time.Now()
	}
	said := !heard && s.noteLocked(err)
	s.mu.Unlock()
	if errors.Is(err, errNoStream) {
		s.defederate()
	}
	switch {
	case heard:
		s.cfg.Log.Debug("the stream of the CA's trust bundle ended", logError, err)
	case said && !errors.Is(err, errNoStream):
		s.cfg.Log.Warn("there is no stream of the CA's trust bundle", logError, err)
	}
}

// noteLocked remembers what is wrong with the stream, nil if nothing is, and reports
// whether that is new.
func (s *Store) noteLocked(err error) (said bool) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	said = problem != "" && problem != s.following.problem
	s.following.problem = problem
	return said
}

// Following is how this node knows the roots of its trust domain.
type Following struct {
	Generation uint64    `json:"generation"` // of the bundle that the CA's stream said last; 0: none yet
	SHA256     string    `json:"sha256"`     // of all roots that vouch for peers, in hexadecimal; see identity.BundleHash
	Roots      int       `json:"roots"`      // that vouch for peers
	Heard      int       `json:"heard"`      // of them, those that no bundle has named
	Connected  bool      `json:"connected"`  // the stream is open, and a bundle came on it
	Since      time.Time `json:"since,omitzero"`
	AgeSeconds float64   `json:"ageSeconds"`        // for how long no stream was open; 0: one is
	Problem    string    `json:"problem,omitempty"` // of the stream, as it was last

	Federated []Federated `json:"federated,omitempty"` // other trust domains whose workloads may be peers
	// FederatedNumber is the greatest number of a list of them; 0: none had one.
	FederatedNumber uint64 `json:"federatedNumber,omitempty"`
}

// Following is what is known now.
func (s *Store) Following() Following {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := Following{
		Generation: s.trust.said.Generation, Heard: len(s.trust.heard),
		Connected: s.following.connected, Since: s.following.since, Problem: s.following.problem,
		AgeSeconds: s.following.age(time.Now()).Seconds(),
		Federated:  s.foreign.dump(),

		FederatedNumber: s.listed,
	}
	if s.bundle != nil {
		f.SHA256, f.Roots = hexOf(s.trust.hash()), len(s.bundle.roots)
	}
	return f
}

// pollRoots reads the root file until ctx ends.
func (s *Store) pollRoots(ctx context.Context) {
	for ctx.Err() == nil {
		s.readRootFile(time.Now())
		wait(ctx, rootFilePoll, nil)
	}
}

func hexOf(s sum) string { return hex.EncodeToString(s[:]) }
