// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAnEntryIsMadeOfWhatAnOperatorTypes(t *testing.T) {
	until := time.Date(2026, 12, 24, 1, 0, 0, 0, time.FixedZone("", 3600))
	got, err := New(KindSerial, "00:4F:1D", until, "stolen")
	want := Entry{Kind: KindSerial, Value: "4f1d", Until: until.UTC(), Reason: "stolen"}
	if err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	if !got.Is(Entry{Kind: KindSerial, Value: "4f1d"}) || got.Is(Entry{Kind: KindIssuer, Value: "4f1d"}) {
		t.Error("which entry denies the same is not known")
	}
	for _, wrong := range []struct {
		kind  Kind
		value string
		want  string
	}{
		{KindID, "", "id: empty"}, {KindID, "web", "id: "}, {KindNode, "a b", "node: "}, {KindSPKI, "00", "spki: "}, {"pod", "x", `"pod" is nothing`},
	} {
		if e, err := New(wrong.kind, wrong.value, time.Time{}, ""); err == nil || !strings.HasPrefix(err.Error(), wrong.want) {
			t.Errorf("%v, %v; want %q", e, err, wrong.want)
		}
	}
}

// A leaf is denied by itself, or if each of its chains hangs on somebody denied.
func TestOneChainOfWhichNothingIsDeniedIsEnough(t *testing.T) {
	leaf := Subject{ID: "spiffe://td/ns/a/sa/b", Serial: "1"}
	old, renewed := Chain{leaf, {Issuer: "aa"}}, Chain{leaf, {Issuer: "bb"}}
	s, now := NewSet(), time.Now()
	for _, row := range []struct {
		entries []Entry
		want    bool
	}{
		{nil, false},
		{[]Entry{{Kind: KindIssuer, Value: "aa"}}, false},
		{[]Entry{{Kind: KindIssuer, Value: "aa"}, {Kind: KindIssuer, Value: "bb"}}, true},
		{[]Entry{{Kind: KindSerial, Value: "1"}}, true},
		{[]Entry{{Kind: KindID, Value: leaf.ID, Until: now}}, false},
	} {
		s.Replace(0, row.entries)
		if entry, is := s.MatchChains([]Chain{old, renewed}, now); is != row.want {
			t.Errorf("%v: %v, %v", row.entries, is, entry)
		}
	}
	if _, is := s.MatchChains(nil, now); is {
		t.Error("nobody is denied")
	}
}

func TestACopyKeepsTheNumbersOfItsSource(t *testing.T) {
	s := NewSet()
	one, two := Entry{Kind: KindNode, Value: "1"}, Entry{Kind: KindNode, Value: "2"}
	s.Copy(700, []Entry{one})
	added, removed := s.Copy(700, []Entry{two})
	generation, entries, _ := s.Entries()
	if generation != 700 || !slices.Equal(entries, []Entry{two}) || !slices.Equal(added, []Entry{two}) || !slices.Equal(removed, []Entry{one}) {
		t.Errorf("%d, %v, %v, %v", generation, entries, added, removed)
	}
}

func TestADenialIsToldFromOtherErrors(t *testing.T) {
	err := fmt.Errorf("handshake: %w", &Error{Who: "the peer", Entry: Entry{Kind: KindNode, Value: "n", Reason: "stolen"}})
	d, ok := errors.AsType[interface {
		error
		Denied() bool
	}](err)
	if !ok || !d.Denied() || d.Error() != "the peer is denied: node n: stolen" {
		t.Errorf("%v", err)
	}
}
