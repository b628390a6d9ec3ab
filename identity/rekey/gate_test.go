// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// The clock of the replica that steps jumps by two days. A node that says what rests on the
// former root is believed before the clock is; of one that says nothing all has ended.
func TestAClockThatJumpsDropsNoRootThatANodeNeeds(t *testing.T) {
	former, next := newParty(t), newParty(t)
	now := time.Now()
	p := Plan{State: Drain, Step: 7, Since: now, Former: former.kit, Next: next.kit}
	files := next.kit.files(former.kit.Roots())
	set := setOf(files)
	for _, tc := range []struct {
		name string
		node Node
		at   time.Time
		want State
	}{
		{"one rests, an hour is left", Node{Connected: true, Set: set, Rests: map[string]int{former.kit.key(): 1}}, now, Drain},
		{"one rests, the clock jumped", Node{Connected: true, Set: set, Rests: map[string]int{former.kit.key(): 1}}, now.Add(48 * time.Hour), Drain},
		{"none rests", Node{Connected: true, Set: set, Rests: map[string]int{}}, now, Drop},
		{"it does not say", Node{Connected: true, Set: set}, now, Drain},
		{"it does not say, and all has ended", Node{Connected: true, Set: set}, now.Add(2 * time.Hour), Drop},
	} {
		r := Report{Step: p.Step, Set: set, Issuer: issuerOf(files), Longest: Seconds(time.Hour), Placed: true, Nodes: map[string]Node{"node-1": tc.node}}
		got, waits := Next(p, files, View{Now: tc.at, Replicas: []Replica{{"a", true, r}}}, func(ca.Files) error { return nil })
		if got.State != tc.want {
			t.Errorf("%s: %s, waiting for %v; want %s", tc.name, got.State, waits, tc.want)
		}
	}
}

// Whoever rolls back goes to the root whose key may be in other hands: nobody is skipped for it.
func TestARollbackOfACompromisedRekeySkipsNobody(t *testing.T) {
	former, next := newParty(t), newParty(t)
	now := time.Now()
	for back, want := range map[bool]State{false: Drain, true: Activate} {
		p := Plan{State: Activate, Step: 3, Since: now.Add(-time.Hour), Compromised: true, SkipAfter: Seconds(time.Minute), Back: back, Former: former.kit, Next: next.kit}
		r := Report{Issuer: former.issuer} // that lags
		got, waits := Next(p, next.kit.files(former.kit.Roots()), View{Now: now, Replicas: []Replica{{"a", true, r}}}, func(ca.Files) error { return nil })
		if got.State != want {
			t.Errorf("back %v: %s, waiting for %v; want %s", back, got.State, waits, want)
		}
	}
}
