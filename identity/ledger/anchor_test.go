// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shelf is an Anchorage, as an API server is that may be away.
type shelf struct {
	mu     sync.Mutex
	texts  map[string][]byte
	away   error
	alarms []string
	looks  int
}

func (s *shelf) All(context.Context) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return maps.Clone(s.texts), s.away
}

func (s *shelf) looked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

func (s *shelf) Put(_ context.Context, texts map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	s.change(texts)
	return nil
}

func (s *shelf) change(texts map[string][]byte) {
	if s.texts == nil {
		s.texts = map[string][]byte{}
	}
	for name, text := range texts {
		if s.texts[name] = text; text == nil {
			delete(s.texts, name)
		}
	}
}

// set is another hand's.
func (s *shelf) set(name string, c *Checkpoint) {
	var text []byte
	if c != nil {
		text, _ = json.Marshal(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(map[string][]byte{name: text})
}

func (s *shelf) setAway(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
}

// told reports how many alarms say all of it.
func (s *shelf) told(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, alarm := range s.alarms {
		if strings.Contains(alarm, what) {
			n++
		}
	}
	return n
}

// anchors are the checkpoints that are kept, by name.
func (s *shelf) anchors(t *testing.T) map[string]Checkpoint {
	t.Helper()
	texts, _ := s.All(t.Context())
	all := map[string]Checkpoint{}
	for name, text := range texts {
		c, ok := parseAnchor(name, text)
		if !ok {
			t.Fatalf("%s: %s", name, text)
		}
		all[name] = c
	}
	return all
}

func (s *shelf) list(t *testing.T) []Checkpoint {
	return slices.Collect(maps.Values(s.anchors(t)))
}

// anchored opens a ledger that looks at its anchors all the time.
func (r *rig) anchored(s *shelf, replica string) *Ledger {
	r.t.Helper()
	l := r.open(replica)
	l.opts.Anchors, l.opts.Alarm = s, func(what string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alarms = append(s.alarms, what)
	}
	l.useAnchors()
	l.anchorEvery = 5 * time.Millisecond
	return l
}

// keepAnchored has a process keep some decisions and ends it in good order.
func (r *rig) keepAnchored(s *shelf, replica string, decisions int) Anchored {
	r.t.Helper()
	l := r.anchored(s, replica)
	end := r.run(l)
	for i := range decisions {
		l.Issued(decision(i))
	}
	end()
	return l.Anchored()
}

func (r *rig) state() map[string][]byte {
	r.t.Helper()
	all := map[string][]byte{}
	for _, path := range r.files("*") {
		all[path] = r.text(path)
	}
	return all
}

func (r *rig) putBack(state map[string][]byte) {
	r.t.Helper()
	for _, path := range r.files("*") {
		os.Remove(path)
	}
	for path, text := range state {
		r.set(path, text)
	}
}

// faults are what Verify finds with all anchors.
func (r *rig) faults(s *shelf) string {
	r.t.Helper()
	report, err := Verify(Question{Dir: r.dir, Roots: r.ca.Roots(), Anchors: s.list(r.t.(*testing.T))}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprint(report.Faults)
}

// All that a process wrote is anchored when it ends in good order, by a signed checkpoint with
// the chain's ID, which stays the same over restarts.
func TestAChainHasOneAnchorThatIsRaised(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	first := r.keepAnchored(s, "ca-1", 3)
	second := r.keepAnchored(s, "ca-1", 20) // several files
	r.keepAnchored(s, "ca-2", 1)
	if first.State != AnchorHeld || second.State != AnchorHeld || first.Chain != second.Chain || len(first.Chain) != 32 || second.Seq <= first.Seq {
		t.Errorf("first %+v, then %+v", first, second)
	}
	anchors, chain := s.anchors(t), r.wantWhole().Chains[0]
	if a := anchors["ca-1."+first.Chain]; len(anchors) != 2 || a.Seq != chain.Last || a.Hash != chain.Hash || a.Signature == nil || a.State != StateClosed {
		t.Errorf("anchors %+v of the chain %+v", anchors, chain)
	}
	if faults := r.faults(s); faults != "[]" || len(s.alarms) > 0 || chain.ID != first.Chain {
		t.Errorf("faults %s, alarms %q, chain %+v", faults, s.alarms, chain)
	}
}

func TestAnOlderStateThatIsPutBackIsNoticedAtTheNextStart(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	before := r.keepAnchored(s, "ca-1", 3)
	older := r.state()
	r.keepAnchored(s, "ca-1", 3)
	name := "ca-1." + before.Chain
	was := s.anchors(t)[name]
	r.putBack(older)
	for range 2 { // it is lost for the process after that, too
		got := r.keepAnchored(s, "ca-1", 30) // beyond what there was
		if got.State != AnchorLost || len(got.Lost) != 1 || got.Chain == before.Chain || got.Seq == 0 {
			t.Errorf("anchored: %+v", got)
		}
		if is := s.anchors(t); len(is) != 2 || is[name].Seq != was.Seq || is[name].Hash != was.Hash || is["ca-1."+got.Chain].Seq != got.Seq {
			t.Errorf("anchors %+v, want the former one as it was, and another one beside", is)
		}
	}
	said := fmt.Sprintf("the chain %s of ca-1 had come to seq %d", before.Chain, was.Seq)
	if n := s.told(said); n != 2 {
		t.Errorf("told %d times in two processes: %q", n, s.alarms)
	}
	for _, want := range []string{"its CA found that lines were lost: by an anchor", "an anchor has another hash of it"} {
		if faults := r.faults(s); !strings.Contains(faults, want) {
			t.Errorf("faults %s, want %q", faults, want)
		}
	}
	r.wantFault("its CA found that lines were lost") // without the anchors, too
	s.set(name, nil)                                 // an operator has understood
	if got := r.keepAnchored(s, "ca-1", 1); got.State != AnchorHeld || got.Lost != nil {
		t.Errorf("without the anchor of what is lost: %+v", got)
	}
}

func TestAnAnchorNamesAChainThatEndsTooEarly(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	before := r.keepAnchored(s, "ca-1", 3)
	older := r.state()
	r.keepAnchored(s, "ca-1", 3)
	r.putBack(older)
	want := fmt.Sprintf("the end is cut off: the chain %s ends at seq %d, and an anchor says that it had come to seq %d", before.Chain, before.Seq, s.list(t)[0].Seq)
	if faults := r.faults(s); !strings.Contains(faults, want) {
		t.Errorf("faults %s, want %q", faults, want)
	}
}

// As on an emptyDir: a replica of the same name begins at seq 1 again, and may come further.
func TestAChainThatBeginsAnewDoesNotRaiseTheAnchorOfTheOneBefore(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	before := r.keepAnchored(s, "ca-1", 3)
	r.putBack(nil)
	after := r.keepAnchored(s, "ca-1", 30)
	anchors := s.anchors(t)
	if after.State != AnchorLost || after.Chain == before.Chain || len(anchors) != 2 || anchors["ca-1."+before.Chain].Seq != before.Seq {
		t.Errorf("anchored %+v, anchors %+v", after, anchors)
	}
	want := fmt.Sprintf("the chain %s of ca-1 had come to seq %d; the files have the chain %s", before.Chain, before.Seq, after.Chain)
	if faults := r.faults(s); !strings.Contains(faults, want) {
		t.Errorf("faults %s, want %q", faults, want)
	}
	r.wantWhole() // by itself it is a good ledger
}

func TestAnchorsThatAreAwayStopNothing(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{away: errors.New("no route to the API server")}
	l := r.anchored(s, "ca-1")
	began := l.Anchored().Current
	end := r.run(l)
	l.Issued(decision(1))
	eventually(t, "it says what is wrong", func() bool { return l.Anchored().Problem == "no route to the API server" })
	if a := l.Anchored(); a.State != AnchorWaiting || !a.Current.Equal(began) || began.IsZero() || l.Stats().Failing {
		t.Errorf("anchored %+v", a)
	}
	s.setAway(nil)
	eventually(t, "it is anchored", func() bool {
		a := l.Anchored()
		return a.State == AnchorHeld && a.Problem == "" && a.Current.After(began) && a.Seq > 0
	})
	s.setAway(errors.New("away again"))
	end()
	r.wantWhole()
}

// Nobody is above who may write to the API server, but it does not go unseen.
func TestAnotherHandAtAnAnchorIsTold(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	l := r.anchored(s, "ca-1")
	r.run(l)
	l.Issued(decision(1))
	anchored := func() bool { a := l.Anchored(); return s.anchors(t)["ca-1."+a.Chain].Seq >= a.Seq && a.Seq > 3 }
	eventually(t, "it is anchored", anchored)
	name := "ca-1." + l.Anchored().Chain
	s.set(name, nil)
	eventually(t, "it is put again, and told", func() bool { return s.told("another hand has taken away") == 1 && anchored() })
	lower := s.anchors(t)[name]
	report := r.wantWhole()
	lower.Seq, lower.Hash = 1, hashOf([]byte("an older one")).String()
	s.set(name, &lower)
	eventually(t, "it is told", func() bool { return s.told("and that line is not in its ledger") == 1 })
	// What another process with a copy of the files does: the chain goes on as another one.
	eventually(t, "another chain is anchored", func() bool { a := l.Anchored(); return a.Chain != report.Chains[0].ID && a.Seq > 0 })
	if is := s.anchors(t)[name]; is.Seq != 1 || l.Anchored().State != AnchorLost {
		t.Errorf("it was overwritten: %+v", is)
	}
	if n := s.told("another hand has taken away"); n != 1 {
		t.Errorf("it is told %d times that an anchor was taken away: the next chain had none yet", n)
	}
}

func TestAnOlderAnchorOfTheSameChainIsRaisedAndTold(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	r.keepAnchored(s, "ca-1", 1)
	older := s.list(t)[0]
	l := r.anchored(s, "ca-1")
	r.run(l)
	name := "ca-1." + older.Chain
	raised := func() bool { return s.anchors(t)[name].Seq > older.Seq }
	eventually(t, "it is raised", raised)
	eventually(t, "it knows", func() bool { return l.Anchored().Seq > older.Seq })
	s.set(name, &older)
	eventually(t, "it is raised again, and told", func() bool { return s.told("has put the checkpoint of the ledger of ca-1 back") >= 1 && raised() })
	if l.Anchored().State != AnchorHeld {
		t.Errorf("%+v", l.Anchored())
	}
}

// Each pod of a Deployment leaves an anchor behind.
func TestOldAnchorsGoByRuleWhenANewOneComes(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	now := time.Now()
	for i := range maxAnchors + 100 {
		c := Checkpoint{Replica: fmt.Sprintf("old-%d", i), Chain: newChain(), Seq: 1, Hash: aHash, Time: now.Add(-time.Duration(i) * time.Minute)}
		s.set(anchorName(c.Replica, c.Chain), &c)
	}
	aged := Checkpoint{Replica: "aged", Chain: "c0ffee", Seq: 1, Hash: aHash, Time: now.Add(-91 * 24 * time.Hour)}
	s.set("aged.c0ffee", &aged)
	a := r.keepAnchored(s, "ca-1", 1)
	anchors := s.anchors(t)
	kept := map[string]bool{}
	for _, c := range anchors {
		kept[c.Replica] = true
	}
	if a.State != AnchorHeld || len(anchors) != maxAnchors || !kept["ca-1"] || !kept["old-0"] || kept["aged"] || kept[fmt.Sprintf("old-%d", maxAnchors)] {
		t.Errorf("%d anchors are kept; %+v", len(anchors), a)
	}
}

func TestATextThatIsNoAnchorIsTold(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{texts: map[string][]byte{"ca-1.x": []byte("{}"), "notes": []byte("hello")}}
	if a := r.keepAnchored(s, "ca-1", 1); a.State != AnchorLost || len(a.Lost) != 1 || s.told("ca-1.x is no checkpoint") != 1 {
		t.Errorf("%+v, %q", a, s.alarms)
	}
	if string(s.texts["notes"]) != "hello" || string(s.texts["ca-1.x"]) != "{}" {
		t.Errorf("what others wrote is %q", s.texts)
	}
}

// testdata/older was written by the version before chains had an ID, and killed.
func TestALedgerOfAnOlderVersionGoesOnAndGetsAnID(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	if err := os.CopyFS(r.dir, os.DirFS("testdata/older")); err != nil {
		t.Fatal(err)
	}
	roots := append(r.ca.Roots(), rootsIn(t, "testdata/older-root.pem")...)
	verify := func(anchors ...Checkpoint) *Report {
		t.Helper()
		report, err := Verify(Question{Dir: r.dir, Roots: roots, Anchors: anchors}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	older := verify()
	if c := older.Chains[0]; len(older.Faults) > 0 || c.ID != "" || c.Signed < 4 {
		t.Fatalf("it is not as the older version verifies it: %v, %+v", older.Faults, c)
	}
	a := r.keepAnchored(s, "ca-1", 30)
	anchors := append(s.list(t), Checkpoint{Replica: "ca-1", Seq: older.Chains[0].Last, Hash: older.Chains[0].Hash}) // that an operator kept
	if report := verify(anchors...); len(report.Faults) > 0 || report.Chains[0].ID != a.Chain || a.State != AnchorHeld || report.Chains[0].First != 1 {
		t.Errorf("it goes on: %v, %+v; %+v", report.Faults, report.Chains[0], a)
	}
}

func rootsIn(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{root}
}
