// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"slices"
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

// A root whose key is in other hands goes without the node that is cut off, and not before
// those that answer have renewed, and their tunnels have had a moment to follow.
func TestACompromisedRootIsDroppedWhenThoseThatAnswerHaveMoved(t *testing.T) {
	former, next := newParty(t), newParty(t)
	now := time.Now()
	files := next.kit.files(former.kit.Roots())
	set, key := setOf(files), former.kit.key()
	rests := func(certificates, tunnels int) Node {
		return Node{Connected: true, Set: set, Rests: map[string]int{key: certificates + tunnels}, Certificates: map[string]int{key: certificates}}
	}
	silent, cutOff := Node{Connected: true, Set: set}, Node{Connected: true, Set: set, Quiet: Seconds(time.Minute)}
	for _, tc := range []struct {
		name    string
		node    Node
		unseen  bool          // by the replica
		in      time.Duration // the state
		renewed time.Duration // since all had; 0: one has not
		want    State
	}{
		{"a certificate, before the time", rests(1, 0), false, time.Second, 0, Drain},
		{"a certificate", rests(1, 0), false, 4 * time.Second, 0, Drain},
		{"a certificate, and all waiting ends", rests(1, 0), false, 63 * time.Second, 0, Drop},
		{"a tunnel", rests(0, 1), false, 4 * time.Second, 0, Drain},
		{"a tunnel, a moment later", rests(0, 1), false, 9 * time.Second, 5 * time.Second, Drain},
		{"a tunnel that never moves", rests(0, 1), false, 14 * time.Second, 10 * time.Second, Drop},
		{"a replica that does not tell certificates from tunnels", Node{Connected: true, Set: set, Rests: map[string]int{key: 1}}, false, 20 * time.Second, 15 * time.Second, Drain},
		{"it has yet to say so", silent, false, 4 * time.Second, 0, Drain},
		{"the replica has yet to hear it", rests(0, 0), true, 4 * time.Second, 0, Drain},
		{"nothing", rests(0, 0), false, 4 * time.Second, 0, Drop},
		{"it is cut off, before the time", cutOff, false, time.Second, 0, Drain},
		{"it is cut off", cutOff, false, 4 * time.Second, 0, Drop},
	} {
		p := Plan{State: Drain, Step: 7, Since: now, Former: former.kit, Next: next.kit, Compromised: true, SkipAfter: Seconds(3 * time.Second)}
		at := now.Add(tc.in)
		if tc.renewed > 0 {
			p.Everywhere = at.Add(-tc.renewed)
		}
		r := Report{Step: p.Step, Set: set, Issuer: issuerOf(files), Longest: Seconds(time.Hour), Placed: true,
			Nodes: map[string]Node{"node-1": tc.node, "node-2": {Pods: true}}}
		if tc.unseen {
			r.Step = 0
		}
		got, waits := Next(p, files, View{Now: at, Replicas: []Replica{{"a", true, r}}}, func(ca.Files) error { return nil })
		if got.State != tc.want {
			t.Errorf("%s: %s, waiting for %v; want %s", tc.name, got.State, waits, tc.want)
		}
		if skips := slices.ContainsFunc(waits, func(w Wait) bool { return w.Name == "node-2" }); got.State == Drop && !skips {
			t.Errorf("%s: the node that is cut off is not named: %v", tc.name, waits)
		}
	}
}

// Without a replica that signs nobody could renew: to go on would cut the whole mesh off.
func TestACompromisedRootIsNotDroppedWhileNobodySigns(t *testing.T) {
	former, next := newParty(t), newParty(t)
	now := time.Now()
	files := next.kit.files(former.kit.Roots())
	p := Plan{State: Drain, Step: 7, Since: now, Former: former.kit, Next: next.kit, Compromised: true, SkipAfter: Seconds(3 * time.Second)}
	old := issuerOf(former.kit.files(former.kit.Roots()))
	for _, by := range []struct {
		issuer, away string
		want         State
	}{
		{issuer: issuerOf(files), want: Drop},
		{issuer: issuerOf(files), away: "its signer does not answer", want: Drain},
		{issuer: old, want: Drain}, // it does not take what is stored, and signs by what it has
	} {
		r := Report{Step: p.Step, Set: setOf(files), Issuer: by.issuer, Longest: Seconds(time.Hour), Placed: true, Away: by.away}
		gone := Report{Step: p.Step}
		view := View{Now: now.Add(10 * time.Minute), Replicas: []Replica{{"a", true, r}, {"b", false, gone}}}
		if got, waits := Next(p, files, view, func(ca.Files) error { return nil }); got.State != by.want {
			t.Errorf("issuer %q, signer %q: %s, waiting for %v; want %s", by.issuer, by.away, got.State, waits, by.want)
		}
	}
}
