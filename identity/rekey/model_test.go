// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// The model: one store; a replica that steps and one that sees the store, and is seen, late;
// a node that holds a certificate, and a node that verifies it. All that they may do is done
// in every sequence. The decisions are those of Next and Wanted, about real certificates.
//
// Every real node is both a holder and a verifier. What one of them waits for as the other is
// left out, so that a re-key of the model goes on sooner than a real one, never later. In
// each state that can be reached the verifier must trust the certificate of the holder.

// roots are a set of roots, or nothing.
type roots uint8

const (
	none roots = iota
	onlyA
	both
	onlyB
)

// authority is one that signs.
type authority uint8

const (
	nobody authority = iota
	signsA
	signsB
)

// trusts says whether a set vouches for what an authority signed.
func (r roots) trusts(a authority) bool {
	return r == both || r == onlyA && a == signsA || r == onlyB && a == signsB
}

// world is one state of the model.
type world struct {
	stored
	replicas [2]replicaState
	told     report // what the second replica said last
	holder   holderState
	verifier verifierState
	asked    uint8 // how often an operator asked for something
}

// stored is what is in the store.
type stored struct {
	plan   progress
	roots  roots
	issuer authority
}

// progress is a Plan without what is the same all the time. Of times it keeps whether they
// are set: the model has one moment, in which nothing ends by itself.
type progress struct {
	state                   State
	step                    uint64
	back, abort, everywhere bool
}

type replicaState struct {
	gives roots
	signs authority
}

// report is what a replica knows.
type report struct {
	replicaState
	step    uint64    // of the state that it has seen, with its files stored
	holds   authority // that the holder's certificate is by, as it said to this replica
	goesBy  roots     // as the verifier said
	streams [2]bool   // of holder and verifier
}

type holderState struct {
	leaf authority
	at   uint8        // the replica that it has a stream to
	said [2]authority // to each replica
}

type verifierState struct {
	trusts roots
	at     uint8
	said   [2]roots
}

// model has what stands for A and B.
type model struct {
	a, b    party
	wants   map[stored]stored
	follows map[question]progress
}

type party struct {
	kit    Kit
	files  ca.Files
	key    string
	issuer string
}

// question is what Next is asked.
type question struct {
	stored
	own, other report
}

func newModel(t *testing.T) *model {
	return &model{a: newParty(t), b: newParty(t), wants: map[stored]stored{}, follows: map[question]progress{}}
}

func newParty(t *testing.T) party {
	files, err := ca.Make(ca.Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	kit, err := KitOf(files)
	if err != nil {
		t.Fatal(err)
	}
	return party{kit, files, kit.key(), issuerOf(files)}
}

// files are those of a store.
func (m *model) files(s stored) ca.Files {
	files := ca.Files{}
	from := m.a.files
	if s.issuer == signsB {
		from = m.b.files
	}
	for name, text := range from {
		files[name] = text
	}
	files[ca.RootFile] = m.pem(s.roots)
	return files
}

func (m *model) pem(r roots) []byte {
	switch r {
	case onlyA:
		return m.a.files[ca.RootFile]
	case onlyB:
		return m.b.files[ca.RootFile]
	case both:
		return slices.Concat(m.a.files[ca.RootFile], m.b.files[ca.RootFile])
	}
	return nil
}

// set is the name of a set in reports.
func (m *model) set(r roots) string {
	if r == none {
		return ""
	}
	return setOf(ca.Files{ca.RootFile: m.pem(r)})
}

func (m *model) plan(p progress) Plan {
	plan := Plan{State: p.state, Step: p.step, Back: p.back, Abort: p.abort, Since: epoch, Began: epoch, Former: m.a.kit, Next: m.b.kit}
	if p.back {
		plan.Former, plan.Next = m.b.kit, m.a.kit
	}
	if p.everywhere {
		plan.Everywhere = epoch
	}
	return plan
}

func progressOf(p Plan) progress {
	return progress{p.State, p.Step, p.Back, p.Abort, !p.Everywhere.IsZero()}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// wanted is what the store holds once the files are as Wanted.
func (m *model) wanted(s stored) stored {
	if known, there := m.wants[s]; there {
		return known
	}
	files, next := m.files(s), s
	if want := Wanted(m.plan(s.plan), files); want != nil {
		for name, text := range want {
			files[name] = text
		}
		for _, r := range []roots{onlyA, both, onlyB} {
			if setOf(files) == m.set(r) {
				next.roots = r
			}
		}
		if next.issuer = signsB; m.a.kit.signs(files) {
			next.issuer = signsA
		}
	}
	m.wants[s] = next
	return next
}

// next is what Next makes of the plan.
func (m *model) next(q question) progress {
	known, there := m.follows[q]
	if !there {
		v := View{Now: epoch, Replicas: []Replica{m.says("0", q.own), m.says("1", q.other)}}
		p, _ := Next(m.plan(q.plan), m.files(q.stored), v, func(ca.Files) error { return nil })
		known = progressOf(p)
		m.follows[q] = known
	}
	return known
}

// says is a report as it is on the board. The holder goes by all roots, and nothing rests
// on the verifier's.
func (m *model) says(name string, r report) Replica {
	issuer, rests := m.a.issuer, map[string]int{m.a.key: 0, m.b.key: 0}
	if r.signs == signsB {
		issuer = m.b.issuer
	}
	switch r.holds {
	case signsA:
		rests[m.a.key] = 1
	case signsB:
		rests[m.b.key] = 1
	}
	if r.holds == nobody {
		rests = nil
	}
	set := m.set(r.gives)
	return Replica{Name: name, Fresh: true, Report: Report{Step: r.step, Set: set, Issuer: issuer, Placed: true, Longest: Seconds(time.Minute), Nodes: map[string]Node{
		"holder":   {Pods: true, Connected: r.streams[0], Set: set, Rests: rests},
		"verifier": {Pods: true, Connected: r.streams[1], Set: m.set(r.goesBy), Rests: map[string]int{}},
	}}}
}

// report is what a replica would say now, if it looks at the store.
func (m *model) report(w world, i uint8) report {
	step := w.plan.step
	if m.wanted(w.stored) != w.stored {
		step = 0
	}
	return report{w.replicas[i], step, w.holder.said[i], w.verifier.said[i], [2]bool{w.holder.at == i, w.verifier.at == i}}
}

// successors calls add with all that may happen next.
func (m *model) successors(w world, add func(string, world)) {
	for i := range w.replicas {
		if now := (replicaState{w.roots, w.issuer}); w.replicas[i] != now {
			next := w
			next.replicas[i] = now
			add(fmt.Sprintf("replica %d takes what is stored", i), next)
		}
	}
	if told := m.report(w, 1); told != w.told {
		next := w
		if told.step != w.told.step { // what was said before it saw the state does not count
			told.holds, next.holder.said[1] = nobody, nobody
		}
		next.told = told
		add("replica 1 reports", next)
	}
	m.step(w, add)
	m.nodes(w, add)
	if w.asked == 0 {
		for name, ask := range map[string]func(Plan, time.Time) (Plan, error){"abort": Abort, "rollback": Rollback} {
			if p, err := ask(m.plan(w.plan), epoch); err == nil {
				next := w
				next.plan, next.asked = progressOf(p), 1
				next.holder.said[0] = nobody
				add(name, next)
			}
		}
	}
}

// step is one of the first replica. It may be killed after each: what follows is what any
// other process would do.
func (m *model) step(w world, add func(string, world)) {
	next := w
	if next.stored = m.wanted(w.stored); next.stored != w.stored {
		add(fmt.Sprintf("the files of %s are stored", w.plan.state), next)
		return
	}
	if next.plan = m.next(question{w.stored, m.report(w, 0), w.told}); next.plan != w.plan {
		if next.plan.step != w.plan.step {
			next.holder.said[0] = nobody
		}
		add(fmt.Sprintf("a step to %s", next.plan.state), next)
	}
}

func (m *model) nodes(w world, add func(string, world)) {
	for i, r := range w.replicas {
		next := w
		next.holder.at = uint8(i)
		next.holder.said[i] = w.holder.leaf
		add(fmt.Sprintf("the holder speaks to replica %d", i), next)

		next = w
		v := &next.verifier
		v.at = uint8(i)
		if v.trusts == none || younger(r.gives, v.trusts, w.plan) {
			v.trusts = r.gives
		}
		v.said[i] = v.trusts
		add(fmt.Sprintf("the verifier hears replica %d", i), next)
	}
	next := w
	next.holder.leaf = w.replicas[w.holder.at].signs
	add("the holder renews", next)

	next = w
	next.verifier.trusts = none // of an empty disk; the CA remembers what it said
	add("the verifier is made anew", next)
}

// younger reports whether a set is a later bundle than another. Sets follow each other by
// the plan.
func younger(set, than roots, p progress) bool {
	switch {
	case p.abort:
		return set == onlyA && than == both || set == both && than == onlyA
	case p.back:
		return set < than
	}
	return set > than
}

func TestNoSequenceOfStepsGivesACertificateThatANodeDoesNotTrust(t *testing.T) {
	m := newModel(t)
	plan, err := Begin(Plan{State: Stable}, m.a.files, m.b.kit, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	a := replicaState{onlyA, signsA}
	first := world{stored: stored{progressOf(plan), onlyA, signsA}, replicas: [2]replicaState{a, a}, told: report{replicaState: a},
		holder: holderState{leaf: signsA}, verifier: verifierState{trusts: onlyA}}
	if testing.Short() {
		first.asked = 1 // no operator turns back
	}
	from, how := map[world]world{}, map[world]string{first: "the start"}
	ends := map[stored]bool{}
	for queue := []world{first}; len(queue) > 0; queue = queue[1:] {
		w := queue[0]
		if w.verifier.trusts != none && !w.verifier.trusts.trusts(w.holder.leaf) {
			t.Fatalf("the verifier does not trust the holder, after:\n%s", story(w, from, how))
		}
		if w.plan.state == Stable {
			ends[stored{roots: w.roots, issuer: w.issuer}] = true
			continue
		}
		m.successors(w, func(what string, next world) {
			if _, known := how[next]; !known {
				how[next], from[next] = what, w
				queue = append(queue, next)
			}
		})
		if len(how) > 5_000_000 {
			t.Fatal("there is no end to it")
		}
	}
	t.Logf("%d states, %d questions", len(how), len(m.follows))
	want := map[stored]bool{{roots: onlyB, issuer: signsB}: true}
	if !testing.Short() {
		want[stored{roots: onlyA, issuer: signsA}] = true
	}
	if !maps.Equal(ends, want) {
		t.Errorf("ended with %v", ends)
	}
}

// story is how a state was reached.
func story(w world, from map[world]world, how map[world]string) string {
	var steps []string
	for {
		steps = append(steps, how[w])
		before, there := from[w]
		if !there {
			break
		}
		w = before
	}
	slices.Reverse(steps)
	return strings.Join(steps, "\n")
}
