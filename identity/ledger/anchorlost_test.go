// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crowd has all that waits for the disk take the room for it, or leaves it again.
func (l *Ledger) crowd(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full {
		l.queued += maxQueue
	} else {
		l.queued -= maxQueue
	}
}

// A full disk at the start keeps the line away that begins another chain.
func TestAnotherChainBeginsOnceThereIsRoomToSaySo(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	before := r.keepAnchored(s, "ca-1", 3)
	older := r.state()
	r.keepAnchored(s, "ca-1", 3)
	name := "ca-1." + before.Chain
	was := string(s.texts[name])
	r.putBack(older)
	l := r.anchored(s, "ca-1")
	s.setAway(errors.New("away"))
	end := r.run(l)
	l.crowd(true)
	s.setAway(nil)
	eventually(t, "it is lost", func() bool { return l.Anchored().State == AnchorLost })
	if got := l.Stats(); got.Lost != 0 || l.chainNow() != before.Chain {
		t.Errorf("without room: chain %s, stats %+v", l.chainNow(), got)
	}
	l.crowd(false)
	eventually(t, "another chain begins", func() bool { return l.chainNow() != before.Chain })
	for i := range 30 { // beyond what there was
		l.Issued(decision(i))
	}
	end()
	got := l.Anchored()
	if is, _ := s.All(t.Context()); string(is[name]) != was || got.State != AnchorLost || s.anchors(t)["ca-1."+got.Chain].Seq != got.Seq || got.Seq < 30 {
		t.Errorf("anchored %+v, the former anchor is %s, was %s", got, is[name], was)
	}
}

// Its age is no reason: it is why somebody should look.
func TestAnAnchorWhoseLineIsLostNeverGoesByRule(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	c := Checkpoint{Replica: "ca-1", Chain: "c0ffee", Seq: 900, Hash: aHash, Time: time.Now().Add(-91 * 24 * time.Hour)}
	s.set("ca-1.c0ffee", &c)
	for i := range maxAnchors {
		other := Checkpoint{Replica: "ca-2", Chain: newChain(), Seq: 1, Hash: aHash, Time: time.Now().Add(-time.Duration(i) * time.Minute)}
		s.set(anchorName(other.Replica, other.Chain), &other)
	}
	for range 2 {
		if a := r.keepAnchored(s, "ca-1", 1); a.State != AnchorLost || s.anchors(t)["ca-1.c0ffee"].Seq != 900 || len(s.texts) > maxAnchors {
			t.Errorf("%+v, %d anchors", a, len(s.texts))
		}
	}
}

// What is no checkpoint may be all that another hand left of one.
func TestATextUnderTheNameOfTheChainIsNotPutOver(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	l := r.anchored(s, "ca-1")
	r.run(l)
	anchored := func() bool {
		a := l.Anchored()
		return a.State == AnchorHeld && a.Seq > 0 && s.anchors(t)[anchorName("ca-1", a.Chain)].Seq >= a.Seq
	}
	eventually(t, "it is anchored", anchored)
	name := anchorName("ca-1", l.Anchored().Chain)
	texts := map[string][]byte{name: []byte(`{"replica": "ca-1"}`)}
	_ = s.Put(t.Context(), texts)
	eventually(t, "it says so", func() bool {
		a := l.Anchored()
		return a.State == AnchorLost && strings.Contains(a.Problem, "is not put over")
	})
	l.Issued(decision(1))
	l.look(t.Context(), time.Second)
	if all, _ := s.All(t.Context()); string(all[name]) != string(texts[name]) {
		t.Errorf("it is %s", all[name])
	}
	s.set(name, nil)
	eventually(t, "it is anchored again", anchored)
	if n := s.told("another hand"); n > 0 {
		t.Errorf("an operator is told of as another hand: %q", s.alarms)
	}
}

// age has a process remove the files of ca-1 by their age, while the API server is away.
func (r *rig) age(s *shelf, replica string) {
	r.t.Helper()
	s.setAway(errors.New("away"))
	defer s.setAway(nil)
	r.keepAnchored(s, replica, 20) // several files
	old := time.Now().Add(-100 * 24 * time.Hour)
	for _, path := range r.files("ca-1-*.jsonl") {
		if err := os.Chtimes(path, old, old); err != nil {
			r.t.Fatal(err)
		}
	}
	end := r.run(r.anchored(s, replica))
	eventually(r.t, "they go by rule, but for those that its process may write to", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, "ca-1-00000001.jsonl"))
		left, _ := filepath.Glob(filepath.Join(r.dir, "ca-1-*.jsonl"))
		return errors.Is(err, os.ErrNotExist) && len(left) <= 2
	})
	end()
}

func TestWhatWentByRuleWhileAnchorsWereAwayIsNotLost(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"ca-1", "ca-2"} { // its own process removes it, or another's in the same directory
		r, s := newRig(t), &shelf{}
		before := r.keepAnchored(s, "ca-1", 3)
		r.age(s, who)
		if faults := r.faults(s); faults != "[]" {
			t.Errorf("%s: before the next start: %s", who, faults)
		}
		after := r.keepAnchored(s, "ca-1", 1)
		if after.State != AnchorHeld || len(s.alarms) > 0 || (who == "ca-1") != (after.Chain == before.Chain) {
			t.Errorf("%s: %+v, then %+v, %q", who, before, after, s.alarms)
		}
		if faults := r.faults(s); faults != "[]" {
			t.Errorf("%s: %s", who, faults)
		}
	}
}

// Anybody who writes the disk can write a line.
func TestALineOfRemovalProvesNothingUnlessItIsVouchedFor(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	before := r.keepAnchored(s, "ca-1", 3)
	removed := Record{Kind: KindRemoved, Upkeep: Upkeep{Removed: &Removed{Replica: "ca-1", Chain: before.Chain, Number: 1, Last: before.Seq, Hash: aHash, Why: "age"}}}
	r.putBack(nil)
	stranger := newRig(t) // another CA's, which signs
	stranger.dir = r.dir
	l := stranger.open("ca-2")
	end := stranger.run(l)
	l.mu.Lock()
	l.takeLocked(removed)
	l.mu.Unlock()
	end()
	c := s.list(t)[0]
	prove := func(want bool, why string) {
		t.Helper()
		chains, err := chainsOf(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := wentByRule(chains, r.ca.Roots(), c); err != nil || got != want {
			t.Errorf("%s: %v, %v", why, got, err)
		}
	}
	prove(false, "by a stranger's signature")
	r.putBack(nil)
	l = r.open("ca-2")
	end = r.run(l)
	l.mu.Lock()
	l.takeLocked(removed)
	l.mu.Unlock()
	end()
	prove(true, "as a ledger writes it")
	for _, other := range []Checkpoint{
		{Replica: "ca-9", Chain: c.Chain, Seq: c.Seq}, {Replica: c.Replica, Chain: "c0ffee", Seq: c.Seq}, {Replica: c.Replica, Chain: c.Chain, Seq: c.Seq + 1},
	} {
		was := c
		c = other
		prove(false, "of another replica, chain or line")
		c = was
	}
	path := r.files("ca-2-*.jsonl")[0]
	whole := r.text(path)
	text := strings.Replace(string(whole), `"why":"age"`, `"why":"aga"`, 1)
	r.set(path, []byte(text))
	prove(false, "its line was changed")
	r.set(path, whole)
	if err := os.Remove(filepath.Join(r.dir, "ca-2.head")); err != nil {
		t.Fatal(err)
	}
	prove(false, "no signature is behind it")
}

// aHash is one of no line.
var aHash = hashOf([]byte("no line")).String()
