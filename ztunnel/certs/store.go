// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
)

// maxWait is how long Server and Client wait for an SVID. An app's connect
// hangs for that long at worst.
const maxWait = 5 * time.Second

// Store holds one SVID per identity in use on this node. It is safe for
// concurrent use; Run keeps its SVIDs alive.
type Store struct {
	cfg    Config
	wake   chan struct{} // holds one: the schedule has changed
	doubts chan struct{} // holds one: what the CA last said of this node may be true no more

	mu       sync.Mutex // guards what follows; nothing is called under it
	entries  map[spiffeid.ID]*entry
	trust    trust
	bundle   *bundle             // of trust's roots; nil while there are none
	foreign  foreigners          // bundles of other trust domains
	ended    endings             // oldest first
	leftOut  string              // see leftOut; of what was said last
	barred   *listing            // what was said last of other trust domains, if ended had a part of it left out
	listed   uint64              // the greatest number of a list of other trust domains; 0: none had one
	news     news                // of another bundle
	tainted  []sum               // keys of authorities, as the CA's stream said last
	above    []*x509.Certificate // the leaf in the last answer: SVIDs share them
	inFlight int                 // waves
	standing Standing
	issued   uint64
	failed   map[Reason]uint64

	following following
	file      rootFile
	denials   denials

	batch  int // identities of a wave; does not change
	saving sync.Mutex

	denying sync.Mutex // before mu; one set is put in force at a time
}

// entry is an identity that is held. Its fields are guarded by Store.mu.
type entry struct {
	id      spiffeid.ID
	holds   int
	current *svid
	former  []former      // SVIDs of other authorities, on which open tunnels may rest
	retired []retiredKey  // of SVIDs before: handshakes may still sign with them
	changed chan struct{} // closed and replaced after each attempt
	news    news          // of another SVID or bundle, and of the end of the entry
	waiting int           // how many Server and Client calls wait

	due       time.Time // of the next attempt
	attempted time.Time
	failures  int   // since the last success
	err       error // of the last attempt
	wave      *wave // of the attempt under way, or nil
	alone     bool  // the next attempt is for it alone: the CA wants to take its time
	replaced  bool  // a streamer has another SVID, and the attempt under way may not have seen it
	disowned  bool  // no root of the bundle vouches for current
	tainted   int   // how many in a row came that a tainted authority signed
}

// New returns a Store in which nothing is held yet.
func New(cfg Config) *Store {
	now := time.Now()
	_, denies := cfg.Issuer.(denier)
	return &Store{
		following: following{heard: now},
		denials:   denials{set: deny.NewSet(), heard: now, none: !denies},

		cfg:      cfg.withDefaults(),
		wake:     make(chan struct{}, 1),
		doubts:   make(chan struct{}, 1),
		entries:  make(map[spiffeid.ID]*entry),
		failed:   make(map[Reason]uint64),
		batch:    batchOf(cfg.Issuer),
		standing: Standing{Reason: NotAsked, Since: now},
	}
}

// Hold says that a pod of id lives on this node. The first Hold of an id has
// its SVID fetched; the last release overwrites its key. Release once; more do
// nothing.
func (s *Store) Hold(id spiffeid.ID) (release func()) {
	s.mu.Lock()
	e := s.entries[id]
	if e == nil {
		e = &entry{id: id, due: time.Now(), changed: make(chan struct{})}
		s.entries[id] = e
	}
	e.holds++
	s.mu.Unlock()
	s.poke()
	return sync.OnceFunc(func() { s.release(e) })
}

func (s *Store) release(e *entry) {
	if s.drop(e) {
		s.unsubscribe(e.id)
		s.cfg.Log.Info("identity forgotten", logIdentity, e.id.String())
	}
}

// drop reports whether that was the last hold.
func (s *Store) drop(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.holds--; e.holds > 0 {
		return false
	}
	delete(s.entries, e.id)
	e.news.tell()
	e.wave.unwanted()
	if e.current != nil {
		e.current.key.forget()
	}
	e.forgetRetired(time.Time{})
	close(e.changed)
	return true
}

// acquire returns the valid SVID of a held identity, or waits for it.
func (s *Store) acquire(ctx context.Context, id spiffeid.ID) (*svid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return nil, fmt.Errorf("%w for %v: no pod of it is enrolled here", ErrNoIdentity, id)
	}
	now := time.Now()
	if err := s.mayProve(e, now); err != nil {
		return nil, err
	}
	if s.usable(e, now) {
		return e.current, nil
	}
	return s.await(ctx, e)
}

// mayProve is why nobody on this node may be e, whatever certificate there is; s.mu is held.
func (s *Store) mayProve(e *entry, now time.Time) error {
	if err := s.deniedID(e.id); err != nil {
		return err
	}
	return s.cutOff(now)
}

// usable reports whether e has a certificate to show; s.mu is held.
func (s *Store) usable(e *entry, now time.Time) bool {
	return e.current.valid(now) && s.deniedLeaf(e) == nil
}

// deniedLeaf is why the certificate that e has may not be shown; s.mu is held.
func (s *Store) deniedLeaf(e *entry) error {
	if e.current == nil {
		return nil
	}
	return s.deniedOwn(e.current)
}

// await returns the SVID of e as soon as it has a valid one. s.mu is held on
// entry and on return.
func (s *Store) await(ctx context.Context, e *entry) (*svid, error) {
	limit := time.NewTimer(maxWait)
	defer limit.Stop()
	e.waiting++
	defer func() { e.waiting-- }()
	for {
		e.hurry(time.Now())
		changed := e.changed
		s.mu.Unlock()
		s.poke()
		var late error
		select {
		case <-changed:
		case <-limit.C:
			late = fmt.Errorf("none within %v", maxWait)
		case <-ctx.Done():
			late = context.Cause(ctx)
		}
		s.mu.Lock()
		switch {
		case s.entries[e.id] != e:
			return nil, fmt.Errorf("%w for %v: its last pod is gone", ErrNoIdentity, e.id)
		case s.usable(e, time.Now()):
			return e.current, nil
		case late != nil:
			return nil, s.without(e, late)
		}
		if err := s.mayProve(e, time.Now()); err != nil {
			return nil, err
		}
	}
}

// without is why there is no SVID to show: the last attempt's error, if any; s.mu is held.
func (s *Store) without(e *entry, late error) error {
	why := late
	if e.err != nil {
		why = e.err
	}
	if denied := s.deniedLeaf(e); denied != nil {
		return fmt.Errorf("%w: not renewed: %v", denied, why)
	}
	switch {
	case e.disowned:
		return fmt.Errorf("%w: no root of the trust bundle vouches for the SVID of %v any more: not renewed: %v", ErrExpired, e.id, why)
	case e.current != nil:
		return fmt.Errorf("%w: %v: not renewed: %v", ErrExpired, e.id, why)
	}
	return fmt.Errorf("%w for %v: %v", ErrNoIdentity, e.id, why)
}

func (s *Store) roots() *bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundle
}

func (s *Store) poke() { signal(s.wake) }

// signal leaves a signal that is not yet seen alone.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
