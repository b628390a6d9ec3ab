// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// anchor is a checkpoint that was kept elsewhere, and what Verify found of its line.
type anchor struct {
	Checkpoint
	met     bool
	changed bool // told
}

// name takes the ID that a line gives its chain. A file begins with the one that is, and a
// start gives one to a chain of an older version.
func (w *walk) name(r Record) {
	if r.Chain == "" {
		return
	}
	if r.Kind == KindFile && len(w.ids) > 0 && !w.isID(r.Chain) {
		w.here(r.Seq, "it is of the chain %s: lines of another one of this replica were put in", r.Chain)
	}
	w.ids[r.Chain], w.report.ID = true, r.Chain
	if r.Kind == KindPutBack && r.Anchor != nil {
		w.here(r.Seq, "its CA found that lines were lost: by an anchor of %s the chain %s had come to seq %d", stampOf(*r.Anchor), r.Anchor.Chain, r.Anchor.Seq)
	}
}

// isID reports whether a line has named the chain so. Older versions give no name.
func (w *walk) isID(id string) bool { return id == "" || w.ids[id] }

// meet compares the line with the anchors of its number.
func (w *walk) meet() {
	for _, a := range w.anchors {
		switch {
		case a.Seq != w.seq:
		case a.Hash == w.last.String():
			a.met = true
		case w.isID(a.Chain):
			a.changed = true
			w.here(w.seq, "it was changed: an anchor has another hash of it")
		}
	}
}

// anchoredTo is the last line that an anchor of this chain names.
func (w *walk) anchoredTo() (seq uint64) {
	for _, a := range w.anchors {
		if w.isID(a.Chain) {
			seq = max(seq, a.Seq)
		}
	}
	return seq
}

// unmet tells of anchors whose line was not there, by what happened to it.
func (w *walk) unmet() {
	for _, a := range w.anchors {
		f := Fault{File: cmp.Or(w.file, w.chain.head), Line: w.line}
		switch {
		case a.met || a.changed || a.Chain != "" && (a.Seq < w.report.First || !w.ids[a.Chain]) && w.wentByRule(a.Checkpoint):
			continue
		case !w.isID(a.Chain):
			f.What = fmt.Sprintf("by an anchor of %s the chain %s of %s had come to seq %d; the files have %s, which ends at seq %d", stampOf(a.Checkpoint), a.Chain, a.Replica, a.Seq, w.allIDs(), w.seq)
		case a.Seq > w.seq:
			f.What = fmt.Sprintf("the end is cut off: the chain%s ends at seq %d, and an anchor says that it had come to seq %d", space(a.Chain), w.seq, a.Seq)
		case a.Seq >= w.report.First:
			f.What = fmt.Sprintf("an anchor knows a line of seq %d, and there is none", a.Seq)
		default:
			continue // it was removed with what was before the first file: beginning asks by which rule
		}
		w.fault(f)
	}
}

func space(id string) string {
	if id == "" {
		return ""
	}
	return " " + id
}

func (w *walk) allIDs() string {
	if len(w.ids) == 0 {
		return "one without a name"
	}
	return "the chain " + strings.Join(slices.Sorted(maps.Keys(w.ids)), ", ")
}

func stampOf(c Checkpoint) string { return c.Time.Format(time.RFC3339) }

// absent tells of anchors whose replica has no file at all, unless its files went by rule.
func (v *verifier) absent(chains map[string]*chain) {
	for _, a := range v.question.Anchors {
		if chains[a.Replica] == nil && !v.wentByRule(a) {
			v.fault(Fault{File: cmp.Or(v.question.Dir, "the files"), What: fmt.Sprintf("there is no chain of %s, which had come to seq %d at %s", a.Replica, a.Seq, stampOf(a))})
		}
	}
}

// wentByRule reports whether a line that is vouched for says that the file of an anchor was
// removed.
func (v *verifier) wentByRule(a Checkpoint) bool {
	return slices.ContainsFunc(v.removed[a.Replica], func(r removal) bool {
		return v.vouches(r) && r.Chain == a.Chain && r.Last >= a.Seq
	})
}

// vouches reports whether a root does for a line that names a removed file: anybody can put a
// line behind the last signature.
func (v *verifier) vouches(r removal) bool {
	return v.question.Roots == nil || r.seq <= r.by.Signed
}
