// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const spki = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

const all = `- node: node-7
  until: 2026-12-24T01:00:00+01:00
  reason: stolen from the rack
- id: spiffe://cluster.local/ns/shop/sa/web
- serial: 00:4F:1d:02
- spki: 00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff
- issuer: ab:cd
`

func entries(t testing.TB, text string) []Entry {
	t.Helper()
	out, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestASetIsAListOfWhatIsDenied(t *testing.T) {
	got := entries(t, all)
	want := []Entry{
		{Kind: KindNode, Value: "node-7", Until: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), Reason: "stolen from the rack"},
		{Kind: KindID, Value: "spiffe://cluster.local/ns/shop/sa/web"},
		{Kind: KindSerial, Value: "4f1d02"},
		{Kind: KindSPKI, Value: spki},
		{Kind: KindIssuer, Value: "abcd"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	text, err := Format(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, entries(t, string(text))); diff != "" {
		t.Errorf("written and read again: %s", diff)
	}
	if none := entries(t, "[] # nothing\n"); none == nil || len(none) != 0 {
		t.Errorf("a set that denies nothing: %v", none)
	}
	if text, err := Format(nil); err != nil || strings.TrimSpace(string(text)) != "[]" {
		t.Errorf("it is written as %q, %v", text, err)
	}
	for _, e := range []Entry{{}, {Kind: "pod", Value: "x"}, {Kind: KindSPKI, Value: "00"}} {
		if text, err := Format([]Entry{e}); err == nil {
			t.Errorf("%v was written as %q", e, text)
		}
	}
}

func TestASetThatIsWrongIsNoSet(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "empty: a set that denies nothing is []",
		" \n":                            "empty",
		"# nothing":                      "no list",
		"null":                           "no list",
		"node: a":                        "not a list",
		"- node: [":                      "not a list",
		"- nodes: a":                     `unknown field "nodes"`,
		"- node: a\n  node: b":           "already set",
		"- {}":                           "entry 0: want one of id",
		"- node: a\n- reason: x":         "entry 1: want one of id",
		"- {node: a, id: spiffe://a/b}":  "entry 0: want exactly one",
		"- id: shop/web":                 "entry 0: id: ",
		"- id: spiffe://cluster.local/x": "entry 0: id: ",
		"- id: spiffe://" + strings.Repeat("a", 2100) + "/ns/shop/sa/web": "entry 0: id: longer than 2048 bytes",
		"- node: a/b":                         "entry 0: node: ",
		"- serial: xyz":                       "entry 0: serial: ",
		"- serial: 'a1'\n---\n- serial: 'b2'": "a second document",
		"- {serial: 'a1', SERIAL: 'b2'}":      "SERIAL",
		"- serial: 0":                         "serial: a number: put it in quotes",
		"- serial: 4e12":                      "serial: a number: put it in quotes",
		"- serial: \"00\"":                    "0 is no serial number",
		"- serial: \"0x1234\"":                "want hexadecimal digits",
		"- spki: abcd":                        "is of 2 bytes, want 32 to 32",
		"- {node: a, until: tomorrow}":        "entry 0: until: ",
		"- {node: a, until: 2026-12-24}":      "entry 0: until: ",
		"- {node: a, reason: " + strings.Repeat("x", MaxReason+1) + "}": "entry 0: reason: longer",
		strings.Repeat(" ", MaxText+1):                                  "longer than",
		strings.Repeat("- node: a\n", MaxEntries+1):                     "10001 entries, the limit is 10000",
	} {
		if got, err := Parse([]byte(text)); err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v, want %q", text, got, err, want)
		}
	}
}

func TestWhatIsDenied(t *testing.T) {
	s := NewSet()
	s.Replace(0, entries(t, all))
	ends := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		subject Subject
		at      time.Time
		kind    Kind
	}{
		{Subject{Node: "node-7"}, ends.Add(-time.Second), KindNode},
		{Subject{Node: "node-7"}, ends, ""},
		{Subject{Node: "node-8", ID: "spiffe://cluster.local/ns/shop/sa/web"}, ends, KindID},
		{Subject{Node: "node-8", ID: "spiffe://cluster.local/ns/shop/sa/web2"}, ends, ""},
		{Subject{SPKI: spki}, ends, KindSPKI},
		{Subject{Issuer: "abcd"}, ends, KindIssuer},
		{Subject{ID: "node-7", Node: "abcd", SPKI: "4f1d02"}, time.Time{}, ""}, // a kind is no other
		{Subject{}, time.Time{}, ""},
	} {
		e, denied := s.Match(test.subject, test.at)
		if denied != (test.kind != "") || e.Kind != test.kind {
			t.Errorf("%+v at %v: %v", test.subject, test.at, e)
		}
	}
}

func TestChangesAreTold(t *testing.T) {
	s := NewSet()
	if err := s.Unknown(); err == nil {
		t.Error("known from the start")
	}
	generation, _, changed := s.Entries()
	added, removed := s.Replace(0, nil)
	if generation != 0 || len(added)+len(removed) != 0 || s.Unknown() != nil {
		t.Errorf("%d %v %v", generation, added, removed)
	}
	select {
	case <-changed:
	default:
		t.Error("an empty set is one, and nobody is told")
	}
	first, _, changed := s.Entries()
	added, _ = s.Replace(0, entries(t, all))
	second, in, next := s.Entries()
	if first == 0 || second <= first || len(added) != 5 || len(in) != 5 {
		t.Errorf("generations %d, %d; %v", first, second, added)
	}
	<-changed
	added, removed = s.Replace(0, slices.Clone(in))
	if third, _, _ := s.Entries(); third != second || len(added)+len(removed) != 0 {
		t.Errorf("the same set again: generation %d, %v %v", third, added, removed)
	}
	select {
	case <-next:
		t.Error("told of nothing")
	default:
	}
	if _, removed = s.Replace(0, in[:1]); len(removed) != 4 {
		t.Errorf("removed %v", removed)
	}
}

// Two replicas, of which one started later, number what they have from one source alike.
func TestReplicasOfOneSourceHaveOneNumber(t *testing.T) {
	early, late := NewSet(), NewSet()
	early.Replace(0, nil) // there was nothing yet
	early.Replace(700, entries(t, all))
	early.Replace(710, entries(t, all)) // written again, with the same entries
	late.Replace(710, entries(t, all))
	one, _, _ := early.Entries()
	other, _, _ := late.Entries()
	if one != 710 || other != 710 {
		t.Errorf("generations %d, %d, want 710", one, other)
	}
	early.Replace(5, nil) // the source was restored from a backup
	if next, _, _ := early.Entries(); next <= one {
		t.Errorf("generation %d after %d", next, one)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(all))
	f.Add([]byte("- {node: a, until: 2026-12-24T00:00:00Z}"))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Format(got)
		if err != nil {
			t.Fatalf("%v: %v", got, err)
		}
		if diff := cmp.Diff(got, entries(t, string(again))); diff != "" {
			t.Fatalf("%s: %s", again, diff)
		}
	})
}
