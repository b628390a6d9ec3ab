// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"
)

// Question says what to verify, and by what.
type Question struct {
	Dir     string              // a whole ledger: what it lacks is a fault
	Files   []string            // or a part of one, in its place
	Roots   []*x509.Certificate // that may vouch for checkpoints; none: nobody's signature is believed
	Anchors []Checkpoint        // that were kept elsewhere: chains must have come to them
}

// Report is what Verify found.
type Report struct {
	Chains  []*Chain `json:"chains"`
	Faults  []Fault  `json:"faults"`            // what nobody but an intruder or a broken disk makes
	Dropped int      `json:"dropped,omitempty"` // faults beyond maxFaults
}

// maxFaults bounds a report.
const maxFaults = 1000

// Chain is one replica's.
type Chain struct {
	Replica  string    `json:"replica"`
	ID       string    `json:"chain,omitempty"` // at its end; none: an older version wrote it
	Files    int       `json:"files"`
	Lines    uint64    `json:"lines"`
	First    uint64    `json:"first"` // Seq
	Last     uint64    `json:"last"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	Hash     string    `json:"hash"`     // of line Last
	Signed   uint64    `json:"signed"`   // up to this Seq a root vouches for all lines; 0: for none
	Promised uint64    `json:"promised"` // up to this Seq the head says that lines are on disk
	Unsigned int       `json:"unsigned"` // checkpoints without a signature: the CA was not open
	Lost     uint64    `json:"lost"`     // lines that a line says were lost
	Notes    []string  `json:"notes"`    // what is no fault, and good to know
}

// Fault is something that a ledger never writes.
type Fault struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1
	Seq  uint64 `json:"seq,omitempty"`
	What string `json:"what"`
}

func (f Fault) String() string {
	switch {
	case f.Line == 0:
		return f.File + ": " + f.What
	case f.Seq == 0:
		return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.What)
	}
	return fmt.Sprintf("%s:%d: seq %d: %s", f.File, f.Line, f.Seq, f.What)
}

// Verify reads a ledger, which may be in use, and says all that is wrong with it. visit gets
// each record that can be read, chain by chain; nil: nobody does.
//
// Lines that were appended after the last checkpoint or head can be cut off at the end of
// a line without a trace; those that a head, an anchor or a later line knows cannot.
func Verify(q Question, visit func(Record)) (*Report, error) {
	if visit == nil {
		visit = func(Record) {}
	}
	v := &verifier{question: q, visit: visit, report: &Report{Faults: []Fault{}, Chains: []*Chain{}}, removed: map[string][]removal{}}
	chains, heads, err := v.find()
	if err != nil {
		return nil, err
	}
	var walks []*walk
	for _, replica := range slices.Sorted(maps.Keys(chains)) {
		w := v.newWalk(chains[replica], heads[replica])
		if err := w.run(); err != nil {
			return nil, err
		}
		walks = append(walks, w)
		v.report.Chains = append(v.report.Chains, w.report)
	}
	for _, w := range walks {
		w.beginning()
		w.unmet()
	}
	v.absent(chains)
	return v.report, nil
}

type verifier struct {
	question Question
	visit    func(Record)
	report   *Report
	removed  map[string][]removal // by replica, that lines name
}

// removal is a line that names a removed file.
type removal struct {
	Removed
	seq uint64
	by  *Chain // in which the line stands
}

func (v *verifier) fault(f Fault) {
	if len(v.report.Faults) == maxFaults {
		v.report.Dropped++
		return
	}
	v.report.Faults = append(v.report.Faults, f)
}

// walk goes along one chain.
type walk struct {
	*verifier
	chain   *chain
	head    promised
	report  *Chain
	signers *signers
	known   map[uint64][]known // by Seq
	anchors []*anchor
	ids     map[string]bool // that its lines name

	last     hash // of the line before
	seq      uint64
	file     string
	line     int
	first    Record // of the chain
	firstIn  file
	promised uint64 // up to which lines were on disk whole
}

// known is what is known of a line from elsewhere.
type known struct{ hash, by string }

func (v *verifier) newWalk(c *chain, head promised) *walk {
	w := &walk{verifier: v, chain: c, head: head, signers: newSigners(v.question.Roots), known: map[uint64][]known{}, ids: map[string]bool{},
		report: &Chain{Replica: c.replica, Files: len(c.files), Notes: []string{}}}
	for _, slot := range head.slots {
		if slot != nil {
			w.known[slot.Seq] = append(w.known[slot.Seq], known{slot.Hash, "the head"})
			w.promised = max(w.promised, slot.Seq)
		}
	}
	w.report.Promised = w.promised
	for _, c := range v.question.Anchors {
		if c.Replica == w.chain.replica {
			w.anchors = append(w.anchors, &anchor{Checkpoint: c})
		}
	}
	return w
}

func (w *walk) note(format string, args ...any) {
	w.report.Notes = append(w.report.Notes, fmt.Sprintf(format, args...))
}

// here is a fault of the line that is read.
func (w *walk) here(seq uint64, format string, args ...any) {
	w.fault(Fault{w.file, w.line, seq, fmt.Sprintf(format, args...)})
}

func (w *walk) run() error {
	for i, f := range w.chain.files {
		if err := w.read(f, i == len(w.chain.files)-1); err != nil {
			return err
		}
	}
	w.ending()
	return nil
}

// read goes along one file.
func (w *walk) read(f file, last bool) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	before, at := w.file, w.line
	w.file = f.path
	for all := newLines(in); ; {
		line, err := all.next()
		if errors.Is(err, io.EOF) {
			if all.number == 0 {
				w.file, w.line = before, at
				w.note("%s is empty: its process ended before it wrote to it", f.path)
			}
			return nil
		}
		w.line = all.number
		if errors.Is(err, errTorn) {
			w.torn(line, last)
			return nil
		}
		if line == nil {
			w.here(0, "%v: the rest of the file is not read", err)
			return nil
		}
		w.one(line, f, before, at)
		before, at = w.file, w.line
	}
}

// torn tells a line that is being written, or was when its process was killed, from one
// that was cut off.
func (w *walk) torn(line []byte, last bool) {
	if last && w.seq >= max(w.promised, w.anchoredTo()) {
		w.note("the last line is %d bytes without an end: it is being written, or its process was killed; the next process cuts it off and says so", len(line))
		return
	}
	w.here(w.seq+1, "the file is cut off within a line")
}

// one judges a line. before and at name the one before it.
func (w *walk) one(line []byte, f file, before string, at int) {
	this := hashOf(line)
	r, err := decode(line)
	if err != nil {
		w.here(w.seq+1, "%v", err)
		w.seq, w.last = w.seq+1, this
		w.report.Lines++
		return
	}
	switch {
	case w.report.Lines == 0:
		w.first, w.firstIn, w.report.First, w.report.Since = r, f, r.Seq, r.Time
	case r.Seq <= w.seq:
		w.here(r.Seq, "it comes after seq %d: lines were moved or put in", w.seq)
	case r.Seq > w.seq+1 && !w.named(r):
		w.here(r.Seq, "seq %d to %d are missing before it", w.seq+1, r.Seq-1)
	case r.Prev != w.last.String():
		w.fault(Fault{before, at, w.seq, "it was changed: the next line has another hash of it"})
	}
	if r.Replica != w.chain.replica {
		w.here(r.Seq, "it is of the chain of %s", r.Replica)
	}
	if (w.line == 1) != (r.Kind == KindFile) || w.line == 1 && r.Number != f.number {
		w.here(r.Seq, "a file begins with the line of kind %s that has its number, and no other line is one", KindFile)
	}
	w.seq, w.last = r.Seq, this
	w.report.Lines++
	w.report.Until = r.Time
	w.name(r)
	w.compare()
	w.upkeep(r)
	w.visit(r)
}

// named reports whether a line says itself which ones before it were lost.
func (w *walk) named(r Record) bool {
	return r.Kind == KindGap && r.Missing != nil && r.Missing.First == w.seq+1 && r.Missing.Last == r.Seq-1 && r.Prev == w.last.String()
}

// compare asks whether the line is as others know it.
func (w *walk) compare() {
	for _, k := range w.known[w.seq] {
		if k.hash != w.last.String() {
			w.here(w.seq, "it was changed: %s has another hash of it", k.by)
		}
	}
	delete(w.known, w.seq)
	w.meet()
}

// upkeep goes by what a line says of the chain.
func (w *walk) upkeep(r Record) {
	switch r.Kind {
	case KindSigner:
		if err := w.signers.learn(r.Certificates); err != nil {
			w.here(r.Seq, "%v", err)
		}
	case KindCheckpoint:
		if r.Signed == nil || r.Signed.Seq != r.Seq-1 || r.Signed.Hash != r.Prev || r.Signed.Replica != r.Replica || !w.isID(r.Signed.Chain) {
			w.here(r.Seq, "its checkpoint is not of the lines before it")
			return
		}
		w.signed(*r.Signed, func(err error) { w.here(r.Seq, "its checkpoint does not hold: %v", err) })
	case KindGap:
		if r.Missing != nil {
			w.report.Lost += r.Missing.Last - r.Missing.First + 1
			w.note("%d lines are lost before seq %d (%d issued, %d denied): %s", r.Missing.Last-r.Missing.First+1, r.Seq, r.Missing.Issued, r.Missing.Denied, r.Missing.Why)
		}
	case KindStart:
		w.started(r)
	case KindRemoved:
		if r.Removed != nil {
			w.removed[r.Removed.Replica] = append(w.removed[r.Removed.Replica], removal{*r.Removed, r.Seq, w.report})
		}
	}
}

func (w *walk) started(r Record) {
	switch r.Ended {
	case EndedStopped:
		w.note("the machine stopped before seq %d: lines of the last moment before may never have reached the disk", r.Seq)
	case EndedFailing:
		w.note("lines could not be written before seq %d: those that waited were lost with their process", r.Seq)
	}
	if r.Cut != nil {
		w.note("%d bytes of a line that was being written were cut off before seq %d", r.Cut.Bytes, r.Seq)
	}
}

// signed takes a checkpoint whose lines are there.
func (w *walk) signed(c Checkpoint, wrong func(error)) {
	switch err := w.signers.verify(c); {
	case errors.Is(err, errUnsigned):
		w.report.Unsigned++
	case err != nil:
		wrong(err)
	case w.question.Roots != nil:
		w.report.Signed = max(w.report.Signed, c.Seq)
	}
}

// ending asks whether the chain has come as far as it must.
func (w *walk) ending() {
	w.report.Last, w.report.Hash = w.seq, w.last.String()
	for _, seq := range slices.Sorted(maps.Keys(w.known)) {
		for _, k := range w.known[seq] {
			switch {
			case seq > w.seq:
				w.fault(Fault{File: cmp.Or(w.file, w.chain.head), Line: w.line, What: fmt.Sprintf("the end is cut off: the chain ends at seq %d, and %s says that it had come to seq %d", w.seq, k.by, seq)})
			case seq >= w.report.First:
				w.fault(Fault{File: w.chain.head, What: fmt.Sprintf("%s knows a line of seq %d, and there is none", k.by, seq)})
			}
		}
	}
	if w.question.Dir == "" && w.head.path == "" {
		w.note("there is no head among the files: lines may be missing behind the last one")
		return
	}
	if w.head.path == "" {
		w.fault(Fault{File: cmp.Or(w.file, w.question.Dir), What: "the head of the chain is not there: its end is not proved"})
		return
	}
	w.headHolds()
}

func (w *walk) headHolds() {
	if w.head.err != nil {
		w.fault(Fault{File: w.head.path, What: w.head.err.Error()})
	}
	any := false
	for _, slot := range w.head.slots {
		if slot == nil {
			continue
		}
		any = true
		wrong := func(err error) {
			w.fault(Fault{File: w.head.path, What: fmt.Sprintf("its checkpoint of seq %d does not hold: %v", slot.Seq, err)})
		}
		switch {
		case slot.Replica != w.chain.replica:
			wrong(fmt.Errorf("it is of the chain of %s", slot.Replica))
			continue
		case !w.isID(slot.Chain):
			wrong(fmt.Errorf("it is of the chain %s, which no line names", slot.Chain))
			continue
		}
		w.signed(*slot, wrong)
	}
	if !any && w.report.Lines > 0 && w.head.err == nil {
		w.note("the head says nothing yet")
	}
}

// beginning asks whether the files that were before the first one went by rule. A line of
// any chain may say so, if a root vouches for it.
func (w *walk) beginning() {
	switch {
	case w.report.Lines == 0 || w.first.Seq == 1 && w.first.Prev == (hash{}).String():
		return
	case w.question.Dir == "":
		w.note("what was before seq %d is not among the files", w.first.Seq)
		return
	}
	for _, r := range w.removed[w.chain.replica] {
		if !w.vouches(r) {
			continue
		}
		if r.Number == w.firstIn.number-1 && r.Last == w.first.Seq-1 && r.Hash == w.first.Prev {
			w.note("seq 1 to %d were removed by rule: %s", r.Last, r.Why)
			return
		}
	}
	w.fault(Fault{File: w.firstIn.path, Line: 1, Seq: w.first.Seq, What: "what was before it is not there, and no line that is signed says that it was removed by rule"})
}
