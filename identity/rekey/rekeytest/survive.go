// SPDX-License-Identifier: Apache-2.0

package rekeytest

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// Survive re-keys the root of a CA in places that open makes, through every death of a
// process and every wish of an operator. serve runs a signer with a key until the test ends.
func Survive(t *testing.T, open func(t *testing.T) Place, serve func(testing.TB, crypto.Signer) Signer) {
	t.Run("killed before and after each write", func(t *testing.T) {
		whole := newMesh(t, open(t))
		next := whole.begin(nil)
		whole.ended(next, rekey.Done)
		if whole.writes < 8 {
			t.Fatalf("%d writes", whole.writes)
		}
		for kill := 1; kill <= whole.writes; kill++ {
			for _, after := range []bool{false, true} {
				if testing.Short() && after == (kill%2 == 0) {
					continue // half of them
				}
				m := newMesh(t, open(t))
				next := m.begin(nil)
				m.kill, m.after = kill, after
				m.ended(next, rekey.Done)
			}
		}
	})
	t.Run("an operator turns back in each state", func(t *testing.T) { turnBack(t, open) })
	t.Run("a node that is cut off blocks, and is named", func(t *testing.T) { cutOff(t, open) })
	t.Run("a node that keeps its certificate blocks the drop", func(t *testing.T) {
		m := newMesh(t, open(t))
		next := m.begin(nil)
		m.nodes[1].keep = true
		m.until(rekey.Drain)
		for range 8 {
			m.round()
		}
		m.waits(rekey.Drain, "node node-1: 1 certificates and tunnels rest on the former root")
		m.nodes[1].keep = false
		m.ended(next, rekey.Done)
	})
	t.Run("the signer of the next key goes in each state", func(t *testing.T) { signerGoes(t, open, serve) })
	// Rounds are no seconds here: rekey's TestReplicasThatSeeWhatIsStoredAMinuteApartHarmNobody has
	// a clock.
	t.Run("a replica sees each change late", func(t *testing.T) {
		m := newMesh(t, open(t))
		m.replicas[1].late = 60
		if testing.Short() {
			m.replicas[1].late = 15
		}
		next := m.begin(nil)
		m.ended(next, rekey.Done)
		if m.rounds < 2*m.replicas[1].late {
			t.Errorf("it was not waited for: %d rounds", m.rounds)
		}
	})
	t.Run("paused", func(t *testing.T) {
		m := newMesh(t, open(t))
		next := m.begin(nil)
		m.until(rekey.Distribute)
		m.change(func(p rekey.Plan, _ ca.Files) (rekey.Plan, error) { return rekey.Pause(p) })
		for range 8 {
			m.round()
		}
		m.waits(rekey.Distribute, "it is paused: culvert ca rotate-root --resume")
		m.change(func(p rekey.Plan, _ ca.Files) (rekey.Plan, error) { return rekey.Resume(p) })
		m.ended(next, rekey.Done)
	})
	t.Run("a key in other hands", func(t *testing.T) {
		m := newMesh(t, open(t))
		next := m.begin(&rekey.BreakGlass{After: time.Millisecond})
		m.until(rekey.Activate)
		if !slices.ContainsFunc(m.events, func(e ca.Event) bool {
			return e.Reason == ca.RekeyStepped && e.Warning && strings.Contains(e.Message, "; not waited for: ")
		}) {
			t.Errorf("told: %v", m.events)
		}
		m.ended(next, rekey.Done)
	})
	t.Run("a key in other hands, and a node that is late", func(t *testing.T) {
		m := newMesh(t, open(t))
		next := m.begin(&rekey.BreakGlass{After: time.Millisecond})
		m.nodes[1].keep = true
		m.until(rekey.Drain)
		for range 8 {
			m.round()
		}
		m.waits(rekey.Drain, "node node-1: 1 certificates rest on the former root")
		m.nodes[1].keep = false
		m.ended(next, rekey.Done)
	})
	t.Run("twice, with a key that is kept elsewhere", func(t *testing.T) {
		m := newMesh(t, open(t))
		m.ended(m.begin(nil), rekey.Done)
		var next rekey.Kit
		m.change(func(p rekey.Plan, files ca.Files) (rekey.Plan, error) {
			made, err := ca.Successor(files, ca.Options{})
			if err != nil {
				return p, err
			}
			delete(made, ca.RootKeyFile)
			if next, err = rekey.KitOf(made); err != nil {
				return p, err
			}
			return rekey.Begin(p, files, next, nil, time.Now())
		})
		m.ended(next, rekey.Done)
		if _, there := m.files()[ca.RootKeyFile]; there {
			t.Error("the former root's key is still there")
		}
	})
}

// waits asks whether the mesh is in a state, and for whom it waits.
func (m *mesh) waits(state rekey.State, want string) {
	m.t.Helper()
	if is, got := m.replicas[0].stepper.Status().State, m.said(); is != state || got != want {
		m.t.Errorf("in %s it waits for %q, want %s and %q", is, got, state, want)
	}
}

func turnBack(t *testing.T, open func(t *testing.T) Place) {
	for _, tc := range []struct {
		state  rekey.State
		ask    func(rekey.Plan, time.Time) (rekey.Plan, error)
		result rekey.Result
		refuse bool
	}{
		{rekey.Prepare, rekey.Abort, rekey.Aborted, false},
		{rekey.Distribute, rekey.Abort, rekey.Aborted, false},
		{rekey.Activate, rekey.Abort, rekey.Done, true},
		{rekey.Drain, rekey.Abort, rekey.Done, true},
		{rekey.Drop, rekey.Abort, rekey.Done, true},
		{rekey.Prepare, rekey.Rollback, rekey.Done, true},
		{rekey.Distribute, rekey.Rollback, rekey.Done, true},
		{rekey.Activate, rekey.Rollback, rekey.RolledBack, false},
		{rekey.Drain, rekey.Rollback, rekey.RolledBack, false},
		{rekey.Drop, rekey.Rollback, rekey.Done, true},
	} {
		if testing.Short() && (tc.refuse || tc.state == rekey.Prepare || tc.state == rekey.Activate) {
			continue
		}
		m := newMesh(t, open(t))
		former, err := rekey.KitOf(m.files())
		if err != nil {
			t.Fatal(err)
		}
		end := m.begin(nil)
		m.until(tc.state)
		name := fmt.Sprintf("%s in %s", tc.result, tc.state)
		if _, err := tc.ask(m.plan(), time.Now()); (err != nil) != tc.refuse {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !tc.refuse {
			end = former
			m.change(func(p rekey.Plan, _ ca.Files) (rekey.Plan, error) { return tc.ask(p, time.Now()) })
		}
		m.ended(end, tc.result)
	}
}

func cutOff(t *testing.T, open func(t *testing.T) Place) {
	m := newMesh(t, open(t))
	next := m.begin(nil)
	m.nodes[2].cut = true
	m.until(rekey.Distribute)
	for range 8 {
		m.round()
	}
	m.waits(rekey.Distribute, "node node-2: it has not said that it goes by the roots of now, and has no stream to the CA")
	m.nodes[2].cut = false
	m.until(rekey.Drain)
	m.nodes[0].cut = true
	for range 8 {
		m.round()
	}
	m.waits(rekey.Drain, "node node-0: it has no stream to the CA")
	m.nodes[0].cut = false
	m.ended(next, rekey.Done)
}
