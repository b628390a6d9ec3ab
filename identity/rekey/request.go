// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"errors"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// ErrNotNow is wrapped if what is asked for is not possible in the state of the plan.
var ErrNotNow = errors.New("not in this state")

// BreakGlass is for a root whose key may be in other hands: nobody who is cut off is waited for
// longer than After. Nodes that have not heard of the next root by then refuse its certificates
// until they do; tunnels that rest on the former one end.
type BreakGlass struct{ After time.Duration }

// Begin returns the plan of a re-key to next. broken is nil unless a gate may be skipped.
func Begin(p Plan, files ca.Files, next Kit, broken *BreakGlass, now time.Time) (Plan, error) {
	if p.underWay() {
		return p, fmt.Errorf("%w: a re-key is under way, in the state %s", ErrNotNow, p.State)
	}
	former, err := KitOf(files)
	if err != nil {
		return p, err
	}
	roots := next.Roots()
	switch {
	case len(roots) == 0:
		return p, errors.New("the next CA has no root that can be read")
	case len(authorities(roots, files.Roots())) > 0:
		return p, fmt.Errorf("the next root, %s, has name and key of one that is trusted already: that is no re-key", roots[0].Subject)
	}
	p = Plan{State: Stable, Step: p.Step, Former: former, Next: next, Began: now.UTC(), Last: p.Last, Tainted: p.Tainted}.to(Prepare, now)
	if broken != nil {
		p.Compromised, p.SkipAfter = true, Seconds(broken.After)
	}
	return p, nil
}

// Pause has the plan stay as it is, until Resume.
func Pause(p Plan) (Plan, error) {
	if !p.underWay() || p.State == Drop || p.State == Withdraw {
		return p, fmt.Errorf("%w: %s has nothing to pause", ErrNotNow, p.State)
	}
	p.Paused = true
	return p, nil
}

// Resume ends a Pause.
func Resume(p Plan) (Plan, error) {
	if !p.Paused {
		return p, fmt.Errorf("%w: nothing is paused", ErrNotNow)
	}
	p.Paused = false
	return p, nil
}

// Abort gives the next root up, which nothing was signed by.
func Abort(p Plan, now time.Time) (Plan, error) {
	p.Paused = false
	switch p.State {
	case Prepare:
		p.Abort = true
		return p.end(now), nil
	case Distribute:
		p.Abort = true
		return p.to(Withdraw, now), nil
	case Activate, Drain:
		return p, fmt.Errorf("%w: in the state %s the next issuer signs already: roll back", ErrNotNow, p.State)
	}
	return p, fmt.Errorf("%w: in the state %s there is nothing to abort", ErrNotNow, p.State)
}

// Rollback has the former issuer sign again, and the next root go.
func Rollback(p Plan, now time.Time) (Plan, error) {
	switch p.State {
	case Prepare, Distribute:
		return p, fmt.Errorf("%w: in the state %s the next issuer does not sign yet: abort", ErrNotNow, p.State)
	case Activate, Drain:
		p.Paused = false
		p.Former, p.Next, p.Back = p.Next, p.Former, !p.Back
		return p.to(Activate, now), nil
	}
	return p, fmt.Errorf("%w: in the state %s there is no way back", ErrNotNow, p.State)
}
