// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFilesThatAreOldEnoughGoAndALineSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keep("ca-1", 30)
	r.keep("ca-2", 30)
	old := time.Now().Add(-100 * 24 * time.Hour)
	first := r.files("ca-1-*.jsonl")[0]
	for _, path := range append(r.files("ca-2-*.jsonl"), first) {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	l := r.open("ca-1")
	end := r.run(l)
	eventually(t, "they are gone", func() bool {
		left, _ := filepath.Glob(filepath.Join(r.dir, "ca-2*"))
		_, err := os.Stat(first)
		return len(left) == 0 && os.IsNotExist(err)
	})
	r.wantWhole() // as soon as they are gone: the head promises the lines that say so
	end()
	if s := l.Stats(); s.RemovedByAge < 3 || s.RemovedForRoom != 0 || s.Bytes == 0 {
		t.Errorf("stats %+v", s)
	}
	report := r.wantWhole()
	if notes := strings.Join(report.Chains[0].Notes, " "); !strings.Contains(notes, "were removed by rule: age") {
		t.Errorf("notes %s", notes)
	}
	if err := os.Remove(r.files("ca-1-*.jsonl")[0]); err != nil {
		t.Fatal(err)
	}
	r.wantFault("no line that is signed says that it was removed by rule")
}

// Whoever can write the files can put a line behind the last signature. It excuses nothing.
func TestALineThatNobodySignedRemovesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keep("ca-1", 30)
	first := r.files("ca-1-*.jsonl")[0]
	last, err := lastOf(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, replica := range []string{"ca-1", "ca-2"} {
		o := r.options(replica)
		o.Certify = nil
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		end := r.run(l)
		l.mu.Lock()
		l.takeLocked(Record{Kind: KindRemoved, Upkeep: Upkeep{Removed: &Removed{Replica: "ca-1", Number: 1, Last: last.seq, Hash: last.last.String(), Why: "age"}}})
		l.mu.Unlock()
		end()
	}
	r.wantWhole()
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	r.wantFault("no line that is signed says that it was removed by rule")
}

// Another replica that runs keeps its own files, however old they are.
func TestARunningReplicaKeepsItsOwnFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keep("ca-2", 30)
	other := r.open("ca-2") // and does not prune by itself: nobody runs it
	t.Cleanup(func() {
		other.head.close()
		for _, out := range other.open {
			out.Close()
		}
	})
	files := r.files("ca-2-*.jsonl")
	old := time.Now().Add(-100 * 24 * time.Hour)
	for _, path := range files {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	l := r.open("ca-1")
	end := r.run(l)
	l.prune(time.Now())
	end()
	if left := r.files("ca-2-*.jsonl"); len(left) < len(files) {
		t.Errorf("files %v were %v", left, files)
	}
}

func TestALedgerKeepsToItsRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := r.options("ca-1")
	o.MaxBytes = MinBytes
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.keepsToRoom(l)
}

// A claim may be smaller than -ledger-size.
func TestALedgerNeverFillsItsVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.open("ca-1") // 1 GiB
	l.volume = func(string) int64 { return MinBytes }
	l.fileBytes = l.room() / 8
	r.keepsToRoom(l)
	if all := volume(r.dir); all < MinBytes {
		t.Errorf("the volume of the test holds %d bytes", all)
	}
}

// While lines cannot be written, none is queued for a file that should go.
func TestAFullDiskQueuesNoRemovals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keep("ca-1", 30)
	l := r.open("ca-1")
	t.Cleanup(func() {
		l.head.close()
		for _, out := range l.open {
			out.Close()
		}
	})
	l.note(unix.ENOSPC)
	before := l.seq
	l.prune(time.Now().Add(100 * 24 * time.Hour))
	if l.seq != before {
		t.Errorf("%d lines wait", l.seq-before)
	}
}

// keepsToRoom has a ledger write two and a half times MinBytes, which is its room.
func (r *rig) keepsToRoom(l *Ledger) {
	t := r.t
	t.Helper()
	end := r.run(l)
	big := decision(0)
	big.Reason = strings.Repeat("x", maxText)
	for range 1000 {
		l.Issued(big)
	}
	var total int64
	eventually(t, "it keeps to its room", func() bool {
		total = 0
		for _, path := range r.files("*") {
			if stat, err := os.Stat(path); err == nil {
				total += stat.Size()
			}
		}
		return total <= MinBytes
	})
	end()
	if s := l.Stats(); total < MinBytes/2 || s.RemovedForRoom == 0 || s.Lost != 0 {
		t.Errorf("%d bytes, stats %+v", total, s)
	}
	if notes := strings.Join(r.wantWhole().Chains[0].Notes, " "); !strings.Contains(notes, "were removed by rule: room") {
		t.Errorf("notes %s", notes)
	}
}

func TestAFollowerReadsWhatComes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.open("ca-1")
	r.run(l)
	l.Issued(decision(1))
	from := Follow(r.dir)
	serials := func() (all []string) {
		entries, err := from.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Kind == KindIssued {
				all = append(all, e.Serial)
			}
		}
		return all
	}
	if got := serials(); len(got) != 1 || got[0] != "1" {
		t.Errorf("first %v", got)
	}
	for i := range 20 { // over the end of a file
		l.Issued(decision(i))
	}
	if got := serials(); len(got) != 20 {
		t.Errorf("then %v", got)
	}
	if got := serials(); len(got) != 0 {
		t.Errorf("then %v", got)
	}
}
