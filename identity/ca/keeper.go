// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity/signing"
)

// How long a Keeper waits before it reads the store again: after a change, so that
// files which come one by one are there; after a failure, longer from one to the next;
// and if nothing seems to happen. After lookFor it gives a look up.
const (
	settle     = 200 * time.Millisecond
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
	pollEvery  = time.Minute
	lookFor    = lockWithin + 5*time.Second
)

// restoreAfter is how long a CA must be gone before it is put back: tools that replace
// an object delete it first.
const restoreAfter = 10 * time.Second

// KeeperOptions says what a Keeper keeps.
type KeeperOptions struct {
	CA    *CA          // required
	Store Store        // required
	Tell  func(Event)  // is told of all that happens, and must not block; nobody
	Log   *slog.Logger // discards
}

// Keeper has a CA be what its store holds, for as long as it runs: it takes what
// others write there, renews the issuer, and says what happened.
type Keeper struct {
	ca    *CA
	store Store
	tell  func(Event)
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	waiting error      // why the CA has not been opened; nil once it was
	events  map[Reason]uint64
	renewal Renewal
	trouble Trouble

	// Only the goroutine of Open, and then that of Run, uses these.
	last          Files     // that are in force
	refused       string    // what was refused last, and why
	defects       []Defect  // that were
	gone          time.Time // since when there is no CA in the store; zero while there is
	askedUpstream time.Time // when the upstream authority was asked for its root
	rootRefused   error     // why that root is not taken
	warned        time.Time // when it was said last that the issuer is not renewed
	share         float64   // of a twentieth of the issuer's life that this process waits after its half
}

var errNotAsked = errors.New("the store of the CA has not answered yet")

// NewKeeper returns a Keeper that has asked nothing yet.
func NewKeeper(o KeeperOptions) *Keeper {
	k := &Keeper{ca: o.CA, store: o.Store, tell: o.Tell, log: o.Log, waiting: errNotAsked, events: map[Reason]uint64{}, share: rand.Float64()}
	for _, reason := range reasons {
		k.events[reason] = 0
	}
	if k.tell == nil {
		k.tell = func(Event) {}
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	return k
}

// Waiting is why the CA is not open yet, or nil. What has been well once is not asked
// for again: the CA signs on while its store is away.
func (k *Keeper) Waiting() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", k.store, k.waiting)
}

// Events returns how often what happened since the start.
func (k *Keeper) Events() map[Reason]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.events)
}

// Open puts the CA of the store in force, or makes it if there never was one.
func (k *Keeper) Open(ctx context.Context) error {
	files, err := k.ca.load(ctx, k.store)
	if errors.Is(err, ErrExpired) && k.revive(ctx) {
		files, err = k.ca.load(ctx, k.store)
	}
	if k.ca.Issuer() == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.waiting = err
		return err
	}
	k.mu.Lock()
	k.waiting = nil
	k.mu.Unlock()
	k.last = files
	a := k.ca.inForce.Load()
	generation, roots := k.ca.Bundle()
	k.log.Info("certificate authority is open", logStore, k.store.String(), logLayout, string(a.layout), logIssuerUntil, a.notAfter(),
		logChain, describeAll(a.chain), logRoots, describeAll(roots), logGeneration, generation)
	k.warn()
	k.plan(files)
	k.log.Info("how the issuer is renewed", logRenewal, k.Renewal().String())
	return nil // an unkept generation is kept by the next look
}

// Run opens the CA, if Open has not, and follows its store until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	k.openUntil(ctx)
	if ctx.Err() != nil {
		return nil
	}
	changed := make(chan struct{}, 1)
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { k.watchSigner(ctx) })
	watch.Go(func() {
		k.store.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	for pause := firstPause; ctx.Err() == nil; {
		wait := pollEvery
		if k.look(ctx) != nil {
			pause, wait = longer(pause), pause
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-changed:
			sleep(ctx, settle)
		case <-time.After(jittered(wait)):
		}
	}
	return nil
}

// openUntil asks until the CA is open: the store may be away, and an operator may mend
// what is refused.
func (k *Keeper) openUntil(ctx context.Context) {
	for pause := firstPause; k.Waiting() != nil && ctx.Err() == nil; pause = longer(pause) {
		timed, stop := context.WithTimeout(ctx, lookFor)
		err := k.Open(timed)
		stop()
		if ctx.Err() != nil {
			return
		}
		if k.said(err) != nil {
			sleep(ctx, jittered(pause))
		}
	}
}

// look compares the store with what is in force, once.
func (k *Keeper) look(ctx context.Context) error {
	timed, stop := context.WithTimeout(ctx, lookFor)
	defer stop()
	err := k.compare(timed)
	if ctx.Err() != nil {
		return err
	}
	return k.said(err)
}

func (k *Keeper) compare(ctx context.Context) error {
	files, err := k.store.Read(ctx)
	switch {
	case errors.Is(err, ErrGone):
		return k.restore(ctx)
	case err == nil && files == nil:
		k.lost()
		return fmt.Errorf("%w: this process signs on by what it has in memory: restore the files from a backup before it ends", ErrGone)
	case err != nil:
		return k.refuse(nil, err)
	}
	k.gone = time.Time{}
	renewed, unrenewed := k.renew(ctx, files)
	err = errors.Join(k.take(ctx, renewed), unrenewed)
	k.plan(k.last)
	return err
}

// take puts in force what the store holds now.
func (k *Keeper) take(ctx context.Context, files Files) error {
	ch, now, err := k.ca.adopt(ctx, k.store, files)
	k.tellChange(ch)
	if err != nil {
		return k.refuse(now, err)
	}
	if !ch.any() && k.last != nil && !now.sameAuthority(k.last) {
		k.happened(Event{Reason: IssuerUpdateSkipped, Message: "the files changed, and are the same CA as before: " + describe(k.ca.Issuer())})
	}
	k.last, k.refused = now, ""
	k.warn()
	return nil
}

// refuse says once of each content that it is not taken, if that is what err says.
func (k *Keeper) refuse(files Files, err error) error {
	if errors.Is(err, ErrUnreachable) || errors.Is(err, signing.ErrAway) || errors.Is(err, ErrUpstream) || errors.Is(err, errUnkept) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if again := err.Error() + fingerprint(files); again != k.refused {
		k.refused = again
		k.happened(Event{Reason: IssuerValidationFailed, Warning: true, Message: fmt.Sprintf("%v; the issuer in force stays: %s", err, describe(k.ca.Issuer()))})
	}
	return err
}

// lost notes that the store holds no CA any more.
func (k *Keeper) lost() {
	if k.gone.IsZero() {
		k.gone = time.Now()
		k.happened(Event{Reason: StoreLost, Warning: true, Message: "the CA was deleted; what runs signs on by what it has in memory"})
	}
}

// restore puts back the CA that somebody deleted. No second root comes of that: it is
// what all replicas have in force.
func (k *Keeper) restore(ctx context.Context) error {
	k.lost()
	if time.Since(k.gone) < restoreAfter {
		return fmt.Errorf("%w; this process signs on, and puts back what it has in memory", ErrGone)
	}
	switch err := k.store.Create(ctx, k.last); {
	case errors.Is(err, ErrExists): // another replica was faster
	case err != nil:
		return fmt.Errorf("%w: put it back: %w", ErrGone, err)
	default:
		k.happened(Event{Reason: StoreRestored, Warning: true, Message: "the CA was deleted, and is put back"})
	}
	k.gone = time.Time{}
	return nil
}

// Trouble is what keeps the store from being what is in force.
type Trouble struct {
	Problem string    // empty: there is none
	Since   time.Time // this problem lasts
}

// Trouble is that of the last look at the store: what is there is no CA to take, or
// none, or it cannot be read. What is in force signs on meanwhile.
func (k *Keeper) Trouble() Trouble {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}

// note keeps how it stands with the store, and reports whether that is another than
// before.
func (k *Keeper) note(err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil && k.trouble.Problem == "", err != nil && err.Error() == k.trouble.Problem:
		return false
	case err == nil:
		k.trouble = Trouble{}
	default:
		k.trouble = Trouble{Problem: err.Error(), Since: time.Now()}
	}
	return true
}

// said notes how it stands with the store, and logs each new problem once, and its end.
func (k *Keeper) said(err error) error {
	switch {
	case !k.note(err):
	case err == nil:
		k.log.Info("the store of the CA is well again", logStore, k.store.String())
	default:
		level := slog.LevelError
		if errors.Is(err, ErrUnreachable) || errors.Is(err, signing.ErrAway) || errors.Is(err, ErrUpstream) {
			level = slog.LevelWarn
		}
		k.log.Log(context.Background(), level, "the store is not as the CA needs it; what is in force stays", logStore, k.store.String(), logError, err)
	}
	return err
}

// tellChange says what became another.
func (k *Keeper) tellChange(ch change) {
	a := k.ca.inForce.Load()
	if ch.issuer {
		k.happened(Event{Reason: IssuerUpdated, Message: "another issuer signs: " + describe(a.issuer())}, logChain, describeAll(a.chain), logLayout, string(a.layout))
	}
	generation, _ := k.ca.Bundle()
	for _, root := range ch.added {
		k.happened(Event{Reason: RootAdded, Message: "nodes are to trust another root: " + describe(root)}, logGeneration, generation)
	}
	for _, root := range ch.dropped {
		k.happened(Event{Reason: RootDropped, Message: "nodes are no longer to trust a root: " + describe(root)}, logGeneration, generation)
	}
}

// Happened counts, logs and tells what happened to the CA by another hand of this process.
func (k *Keeper) Happened(e Event) { k.happened(e) }

// happened counts, logs and tells.
func (k *Keeper) happened(e Event, more ...any) {
	k.mu.Lock()
	k.events[e.Reason]++
	k.mu.Unlock()
	level := slog.LevelInfo
	if e.Warning {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, e.Message, append([]any{logReason, string(e.Reason), logStore, k.store.String()}, more...)...)
	k.tell(e)
}

func longer(pause time.Duration) time.Duration { return min(2*pause, lastPause) }

// jittered is d and up to half as much more: replicas need not ask together.
func jittered(d time.Duration) time.Duration { return d + rand.N(d/2) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
