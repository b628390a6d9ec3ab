// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// State is how far a re-key is. doc.go has the table.
type State string

// States. The zero value is Stable.
const (
	Stable     State = "stable"
	Prepare    State = "prepare"
	Distribute State = "distribute"
	Activate   State = "activate"
	Drain      State = "drain"
	Drop       State = "drop"
	Withdraw   State = "withdraw"
)

// States are all of them, in the sequence of a re-key.
var States = []State{Stable, Prepare, Distribute, Activate, Drain, Drop, Withdraw}

// follows says which states may follow one.
var follows = map[State][]State{
	Stable:     {Prepare},
	Prepare:    {Distribute, Stable},
	Distribute: {Activate, Withdraw},
	Activate:   {Drain, Activate}, // itself: a rollback
	Drain:      {Drop, Activate},
	Drop:       {Stable},
	Withdraw:   {Stable},
}

// Result is how a re-key ended.
type Result string

// Results.
const (
	Done       Result = "done"
	Aborted    Result = "aborted"
	RolledBack Result = "rolled-back"
)

// Plan is a re-key: how far it is, and what it takes to go on, or back. The private keys of
// both roots are in it while it is under way, where the CA keeps them.
type Plan struct {
	State State     `json:"state"`
	Step  uint64    `json:"step,omitempty"` // how many states it has been in: one may come again
	Since time.Time `json:"since,omitzero"` // in this state
	Began time.Time `json:"began,omitzero"`

	// Everywhere is since when every replica has done what the state wants: gives the roots,
	// or signs by the issuer; in Drain, of a compromised root, since when every node that answers
	// has renewed. Zero while one has not.
	Everywhere time.Time `json:"everywhere,omitzero"`

	Back   bool `json:"back,omitempty"`   // rolled back: Next is what was in force before
	Abort  bool `json:"abort,omitempty"`  // it never was in force
	Paused bool `json:"paused,omitempty"` // no step is taken
	// Compromised says that the key of Former may be in other hands: no state waits for who is cut
	// off for longer than SkipAfter, but on the way back.
	Compromised bool    `json:"compromised,omitempty"`
	SkipAfter   Seconds `json:"skipAfterSeconds,omitempty"`

	Former Kit `json:"former,omitzero"` // what is to go; its keys are taken when the issuer changes
	Next   Kit `json:"next,omitzero"`

	Last Ended `json:"last,omitzero"` // the re-key before

	// Tainted are keys of authorities, whether a re-key is under way or not: SHA-256 in
	// hexadecimal, the latest last. What they signed is renewed at once.
	Tainted []string `json:"tainted,omitempty"`
}

// Ended is how a re-key ended, and when.
type Ended struct {
	Result Result    `json:"result"`
	At     time.Time `json:"at"`
}

// Seconds is a time that is stored in seconds.
type Seconds time.Duration

// MarshalJSON is part of json.Marshaler.
func (s Seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Seconds()) }

// UnmarshalJSON is part of json.Unmarshaler.
func (s *Seconds) UnmarshalJSON(text []byte) error {
	var n float64
	err := json.Unmarshal(text, &n)
	*s = Seconds(n * float64(time.Second))
	return err
}

// Of reads the plan of a CA's files; one without a plan is Stable.
func Of(files ca.Files) (Plan, error) {
	text := files[ca.RekeyFile]
	if len(text) == 0 {
		return Plan{State: Stable}, nil
	}
	var p Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return Plan{}, fmt.Errorf("%s: %v", ca.RekeyFile, err) // of JSON: it quotes no key
	}
	if !slices.Contains(States, p.State) {
		return Plan{}, fmt.Errorf("%s: the state %q is none that this version knows", ca.RekeyFile, p.State)
	}
	return p, nil
}

// Files is what is stored of the plan.
func (p Plan) Files() ca.Files {
	text, _ := json.Marshal(p) // of texts, numbers and times: it does not fail
	return ca.Files{ca.RekeyFile: append(text, '\n')}
}

// to is the plan in another state.
func (p Plan) to(s State, now time.Time) Plan {
	if !slices.Contains(follows[p.State], s) {
		panic(fmt.Sprintf("a re-key goes from %s to %s", p.State, s))
	}
	p.State, p.Since, p.Everywhere = s, now.UTC(), time.Time{}
	p.Step++
	return p
}

// end is the plan once nothing is under way. It forgets all keys.
func (p Plan) end(now time.Time) Plan {
	last := Ended{Result: Done, At: now.UTC()}
	switch {
	case p.Back:
		last.Result = RolledBack
	case p.Abort:
		last.Result = Aborted
	}
	return Plan{State: Stable, Step: p.Step, Since: now.UTC(), Last: last, Tainted: p.Tainted}
}

// Taint has nodes renew at once what an authority signed, which is named by its key.
func (p Plan) Taint(key ca.Key) Plan {
	name := hex.EncodeToString(key[:])
	p.Tainted = append(slices.DeleteFunc(slices.Clone(p.Tainted), func(n string) bool { return n == name }), name)
	p.Tainted = p.Tainted[max(0, len(p.Tainted)-ca.MaxTainted):]
	return p
}

// taints are the keys of all authorities whose certificates are to be renewed at once. A root
// in other hands is one as soon as another signs.
func (p Plan) taints() (keys []ca.Key) {
	names := p.Tainted
	if p.Compromised && !p.Back && slices.Contains([]State{Activate, Drain, Drop}, p.State) {
		names = append(slices.Clone(names), p.Former.key())
	}
	for _, name := range names {
		if key, err := hex.DecodeString(name); err == nil && len(key) == len(ca.Key{}) {
			keys = append(keys, ca.Key(key))
		}
	}
	return keys
}

// underWay reports whether there is something to do.
func (p Plan) underWay() bool { return p.State != Stable }
