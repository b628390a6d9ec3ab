// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A copy of a ledger that goes on is whole: what a head promises is in it.
func TestACopyOfALedgerThatGoesOnIsWhole(t *testing.T) {
	r := newRig(t)
	l := r.open("ca-1")
	end := r.run(l)
	defer end()
	for range 40 { // of several files
		l.Issued(Decision{Identity: web, Node: "node-1", Serial: "1"})
	}
	names, err := l.Names()
	if err != nil || len(names) < 3 || names[0] != "ca-1.head" || !slices.IsSorted(names[1:]) {
		t.Fatalf("%q, %v", names, err)
	}
	copied := t.TempDir()
	for _, name := range names {
		l.Issued(Decision{Identity: web, Node: "node-1", Serial: "2"})
		var whole []byte
		for {
			piece, err := l.Piece(name, int64(len(whole)), 1000)
			if err != nil {
				t.Fatal(err)
			}
			if whole = append(whole, piece...); len(piece) < 1000 {
				break
			}
		}
		if err := os.WriteFile(filepath.Join(copied, name), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Verify(Question{Dir: copied, Roots: r.ca.Roots()}, nil)
	if err != nil || len(report.Faults) > 0 || len(report.Chains) != 1 || report.Chains[0].Lines < 40 {
		t.Errorf("%+v, %v", report, err)
	}
}

// Whoever may write to the directory must not have the CA hand out its keys.
func TestOnlyFilesOfALedgerAreHandedOut(t *testing.T) {
	r := newRig(t)
	l := r.open("ca-1")
	defer r.run(l)()
	key := filepath.Join(t.TempDir(), "issuer.key")
	err := os.WriteFile(key, []byte("secret"), 0o600)
	for name, target := range map[string]string{"link.head": key, "link-00000001.jsonl": key, "key.pem": key} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(r.dir, name)))
	}
	err = errors.Join(err, unix.Mkfifo(filepath.Join(r.dir, "pipe.head"), 0o600), os.Mkdir(filepath.Join(r.dir, "dir.head"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link.head", "link-00000001.jsonl", "key.pem", "pipe.head", "dir.head", "gone.head", "", ".", "..", "../" + filepath.Base(r.dir) + "/ca-1.head", strings.Repeat("x", 300) + ".head"} {
		if piece, err := l.Piece(name, 0, 100); err == nil {
			t.Errorf("%q: %q", name, piece)
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if piece, err := l.Piece("ca-1.head", -1, 100); err == nil {
		t.Errorf("from before the begin: %q", piece)
	}
}
