// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

const (
	// lookEvery is how often a re-key under way is looked at, and reported about, unless
	// Options says otherwise.
	lookEvery = time.Second
	// idleEvery is how often it is looked whether one has begun, if the store's watch tells
	// nothing.
	idleEvery = 30 * time.Second
	// fresh is for how long a report counts.
	fresh = 15 * time.Second
	// settle is longer than a look of a ca.Keeper at its store takes.
	settle = 25 * time.Second
	// answer is how long after it was signed a certificate may come to its node.
	answer = 10 * time.Second
	// lookFor is how long a look may take.
	lookFor = 10 * time.Second
)

// alarmAfter is how long a state lasts until somebody is told that it does.
var alarmAfter = map[State]time.Duration{
	Prepare: time.Minute, Distribute: 10 * time.Minute, Activate: 5 * time.Minute,
	Drain: 26 * time.Hour, Drop: 10 * time.Minute, Withdraw: 10 * time.Minute,
}

// Options says what a Stepper steps.
type Options struct {
	CA     *ca.CA                       // required
	Store  ca.Store                     // required; for the Stepper alone
	Board  Board                        // required
	Name   string                       // of this replica, on the board; required
	Settle time.Duration                // how long a look of the CA at its store takes at most; 25 s
	Answer time.Duration                // how long an answer with a certificate takes at most; 10 s
	Every  time.Duration                // between two looks while a re-key is under way; 1 s
	Heard  func(since time.Time) Report // what this replica knows; required
	Skew   time.Duration                // how far clocks of the mesh may be off; 0
	Lead   func(context.Context) error  // why this replica must not step now: ErrFollows if another leads; every one may
	Tell   func(ca.Event)               // is told of each step, as ca.Keeper.Happened; nobody
	Log    *slog.Logger                 // discards
}

// ErrFollows is why a replica takes no step when another leads.
var ErrFollows = errors.New("another replica leads")

// Stepper follows one replica's part in a re-key. Nobody waits for it: the CA signs on,
// whatever becomes of it.
type Stepper struct {
	Options
	beat  uint64
	step  uint64          // of the plan whose files were seen
	since time.Time       // when that was first
	seen  map[string]seen // by replica
	alarm State           // that was told to last too long
	said  string          // the last problem

	mu     sync.Mutex // guards what follows
	status Status
}

// seen is what a replica said, and since when it says so by our clock.
type seen struct {
	text  string
	since time.Time
	again bool // it has said something else before
}

// Status is how it stands with a re-key, as of the last look.
type Status struct {
	State       State     `json:"state"`
	Since       time.Time `json:"since,omitzero"`
	Back        bool      `json:"back,omitempty"`
	Paused      bool      `json:"paused,omitempty"`
	Compromised bool      `json:"compromised,omitempty"`
	Waits       []Wait    `json:"waits,omitempty"`
	Last        Ended     `json:"last,omitzero"`
	Problem     string    `json:"problem,omitempty"` // why it cannot be looked at or stepped
}

// NewStepper returns one that has not looked yet.
func NewStepper(o Options) *Stepper {
	if o.Tell == nil {
		o.Tell = func(ca.Event) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Lead == nil {
		o.Lead = func(context.Context) error { return nil }
	}
	o.Every, o.Settle, o.Answer = cmp.Or(o.Every, lookEvery), cmp.Or(o.Settle, settle), cmp.Or(o.Answer, answer)
	return &Stepper{Options: o, seen: map[string]seen{}, status: Status{State: Stable}}
}

// Status is what the last look found.
func (s *Stepper) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	status.Waits = slices.Clone(status.Waits)
	return status
}

// Run looks and steps until ctx ends. Then the replica's report is taken away.
func (s *Stepper) Run(ctx context.Context) error {
	defer func() {
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if s.beat > 0 {
			_ = s.Board.Put(last, s.Name, nil) // else it is stale soon
		}
	}()
	changed := make(chan struct{}, 1)
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() {
		s.Store.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	for ctx.Err() == nil {
		again, err := s.Look(ctx)
		s.note(ctx, err)
		if !again {
			s.pause(ctx, err, changed)
		}
	}
	return nil
}

// pause waits until the next look is due: soon while a re-key is under way, or after a
// failure; else when the store has changed.
func (s *Stepper) pause(ctx context.Context, err error, changed <-chan struct{}) {
	d := s.Every
	if idle := err == nil && s.CA.Issuer() != nil && s.Status().State == Stable; idle {
		d = idleEvery
	} else {
		changed = nil
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-time.After(d):
	}
}

// Look reports what this replica knows, and takes one step if there is one to take. again
// says that it did: the next may be due.
func (s *Stepper) Look(ctx context.Context) (again bool, err error) {
	if s.CA.Issuer() == nil {
		return false, nil // it is not open yet
	}
	ctx, stop := context.WithTimeout(ctx, lookFor)
	defer stop()
	files, err := s.Store.Read(ctx)
	if err != nil || files == nil {
		return false, err
	}
	plan, err := Of(files)
	if err != nil {
		return false, err
	}
	s.CA.Taint(plan.taints())
	if !plan.underWay() {
		s.set(plan, nil)
		return false, s.quiet(ctx)
	}
	want := Wanted(plan, files)
	view, err := s.view(ctx, plan, want == nil)
	if err != nil {
		return false, err
	}
	if want != nil && !plan.Paused {
		s.set(plan, []Wait{{forReplica, "", "the files of the state are not stored yet"}})
		return s.store(ctx, files, want)
	}
	next, waits := Next(plan, files, view, s.CA.Refuses)
	s.set(plan, waits)
	s.alarms(plan, waits, view.Now)
	if reflect.DeepEqual(next, plan) {
		return false, nil
	}
	again, err = s.store(ctx, files, next.Files())
	if again && next.State != plan.State {
		s.stepped(plan, next, waits)
	}
	return again && next.State != plan.State, err
}

// store writes, if this replica may. That another was faster is no error.
func (s *Stepper) store(ctx context.Context, files, next ca.Files) (stored bool, err error) {
	switch err := s.Lead(ctx); {
	case errors.Is(err, ErrFollows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("take the lead: %w", err)
	}
	err = s.Store.Replace(ctx, files, next)
	if errors.Is(err, ca.ErrChanged) {
		return false, nil
	}
	return err == nil, err
}

// quiet takes the report of a re-key that is over away.
func (s *Stepper) quiet(ctx context.Context) error {
	if s.beat == 0 {
		return nil
	}
	s.beat, s.seen = 0, map[string]seen{}
	return s.Board.Put(ctx, s.Name, nil)
}

// view reports, and reads what all replicas report.
func (s *Stepper) view(ctx context.Context, plan Plan, stored bool) (View, error) {
	s.beat++
	own := s.report(plan, stored)
	text, err := json.Marshal(own)
	if err != nil {
		return View{}, err
	}
	if err := s.Board.Put(ctx, s.Name, text); err != nil {
		return View{}, fmt.Errorf("tell other replicas: %w", err)
	}
	all, err := s.Board.All(ctx)
	if err != nil {
		return View{}, fmt.Errorf("what other replicas tell: %w", err)
	}
	v := View{Now: time.Now(), Skew: s.Skew, Replicas: []Replica{{s.Name, true, own}}}
	for name := range s.seen {
		if _, there := all[name]; !there {
			delete(s.seen, name)
		}
	}
	for name, text := range all {
		if name == s.Name {
			continue
		}
		r := Replica{Name: name, Fresh: s.isFresh(name, string(text), v.Now)}
		if json.Unmarshal(text, &r.Report) != nil {
			r.Fresh = false
		}
		v.Replicas = append(v.Replicas, r)
	}
	slices.SortFunc(v.Replicas, func(a, b Replica) int { return strings.Compare(a.Name, b.Name) })
	return v, nil
}

// report is what this replica knows since it has seen the state. An issuer or a set of roots
// that comes back may have been gone in between: a look of the CA at its store that began
// before must have ended. What nodes say of their certificates counts once an answer that was
// under way has come. Until they have had time to say it, this replica has not seen the state:
// one that was just started must not take their silence for an older node's.
func (s *Stepper) report(plan Plan, stored bool) Report {
	now := time.Now()
	switch {
	case !stored:
		s.step = 0
	case s.step != plan.Step:
		s.step, s.since = plan.Step, now
	}
	answer := s.Answer
	if plan.Compromised && !plan.Back { // whoever is in a hurry says how long anything may take
		answer = min(answer, time.Duration(plan.SkipAfter))
	}
	var since time.Time
	if plan.State == Drain {
		since = s.since.Add(answer)
	}
	r := s.Heard(since)
	r.Beat, r.Step = s.beat, s.step
	if again := plan.Back || plan.Began.Sub(plan.Last.At) < time.Minute; again && now.Sub(s.since) < s.Settle {
		r.Step = 0
	}
	if plan.State == Drain && now.Sub(s.since) < 2*answer { // else the clock would speak for nodes
		r.Step = 0
	}
	return r
}

// isFresh reports whether a replica says something else than a while before: what it says
// when it is first seen may be old.
func (s *Stepper) isFresh(name, text string, now time.Time) bool {
	before, known := s.seen[name]
	if !known || before.text != text {
		s.seen[name] = seen{text, now, known}
		return known
	}
	return before.again && now.Sub(before.since) < fresh
}

func (s *Stepper) set(p Plan, waits []Wait) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = Status{State: p.State, Since: p.Since, Back: p.Back, Paused: p.Paused, Compromised: p.Compromised, Waits: waits, Last: p.Last}
}

// note keeps a problem, and logs it once.
func (s *Stepper) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	s.mu.Lock()
	s.status.Problem = problem
	s.mu.Unlock()
	if problem != s.said && problem != "" {
		s.Log.Warn("the re-key of the root cannot be looked at, or stepped; nothing changes", logError, problem)
	}
	s.said = problem
}

// stepped tells of a step that this replica took.
func (s *Stepper) stepped(from, to Plan, skipped []Wait) {
	e := ca.Event{Reason: ca.RekeyStepped, Message: fmt.Sprintf("the re-key of the root went from %s to %s", from.State, to.State)}
	if to.State == Stable {
		e.Message = fmt.Sprintf("the re-key of the root has ended: %s", to.Last.Result)
	}
	if len(skipped) > 0 {
		e.Warning = true
		e.Message += "; not waited for: " + few(skipped)
	}
	s.Tell(e)
}

// alarms tells once of a state that lasts too long.
func (s *Stepper) alarms(p Plan, waits []Wait, now time.Time) {
	if p.State != s.alarm && s.alarm != "" {
		s.alarm = ""
	}
	if p.Paused || len(waits) == 0 || s.alarm == p.State || now.Sub(p.Since) < alarmAfter[p.State] {
		return
	}
	s.alarm = p.State
	message := fmt.Sprintf("the re-key of the root is in the state %s since %s, and waits for %s", p.State, p.Since.UTC().Format(time.RFC3339), few(waits))
	s.Tell(ca.Event{Reason: ca.RekeyLags, Warning: true, Message: message})
}

// few is a list of waits that stays short.
func few(waits []Wait) string {
	const most = 5
	var all []string
	for _, w := range waits[:min(most, len(waits))] {
		all = append(all, w.String())
	}
	if len(waits) > most {
		all = append(all, fmt.Sprintf("%d more", len(waits)-most))
	}
	return strings.Join(all, "; ")
}
