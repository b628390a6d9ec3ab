// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// spoil does something to the files of a ledger that has ended, asks whether it is found,
// and puts back what was there.
func (r *rig) spoil(what string, do func()) {
	r.t.Helper()
	before := map[string][]byte{}
	for _, path := range r.files("*") {
		before[path] = r.text(path)
	}
	do()
	if report := r.verify(); len(report.Faults) == 0 {
		r.t.Errorf("nothing is found of: %s", what)
	}
	for _, path := range r.files("*") {
		if before[path] == nil {
			os.Remove(path)
		}
	}
	for path, text := range before {
		r.set(path, text)
	}
}

// some are positions in a text at random: with -short so many, else ten times as many.
func some(n, short int) []int {
	if !testing.Short() {
		short *= 10
	}
	return rand.Perm(n)[:min(n, short)]
}

func spoiled(t *testing.T) *rig {
	r := newRig(t)
	r.keep("ca-1", 6)
	r.keep("ca-1", 6)
	r.wantWhole()
	return r
}

// But of what nobody signed: a head that was written before the CA had certified the key,
// and which the other slot has followed.
func TestAnyByteThatIsChangedIsFound(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	for _, path := range r.files("*") {
		text := r.text(path)
		var slots [2]*Checkpoint
		if strings.HasSuffix(path, headSuffix) {
			slots, _ = readSlots(bytes.NewReader(text))
		}
		for _, at := range some(len(text), 150) {
			if slot := slots[min(at/headSlot, 1)]; slot != nil && slot.Signer == "" {
				continue
			}
			changed := slices.Clone(text)
			changed[at] ^= 1 << rand.N(8)
			r.set(path, changed)
			if len(r.verify().Faults) == 0 {
				t.Errorf("%s: byte %d: %q became %q", filepath.Base(path), at, text[at], changed[at])
			}
		}
		r.set(path, text)
	}
}

func TestAnyPlaceToCutIsFound(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	for _, path := range r.files("*.jsonl") {
		text := r.text(path)
		ends := []int{}
		for i, c := range text {
			if c == '\n' {
				ends = append(ends, i, i+1)
			}
		}
		for _, at := range append(ends, some(len(text), 100)...) {
			if at == len(text) {
				continue
			}
			r.set(path, text[:at])
			if len(r.verify().Faults) == 0 {
				t.Errorf("%s: cut off at byte %d of %d", filepath.Base(path), at, len(text))
			}
		}
		r.set(path, text)
	}
}

func TestAnyLineThatGoesOrMovesIsFound(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	for _, path := range r.files("*.jsonl") {
		lines := bytes.SplitAfter(r.text(path), []byte("\n"))
		lines = lines[:len(lines)-1]
		for i := range lines {
			r.spoil("a line that goes", func() { r.set(path, bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)) })
			r.spoil("a line that is there twice", func() { r.set(path, bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil)) })
			if j := rand.N(len(lines)); j != i {
				r.spoil("two lines that change places", func() {
					swapped := slices.Clone(lines)
					swapped[i], swapped[j] = swapped[j], swapped[i]
					r.set(path, bytes.Join(swapped, nil))
				})
			}
		}
	}
	all := r.files("*.jsonl")
	for i, path := range all {
		r.spoil("a file that goes", func() { os.Remove(path) })
		if i > 0 {
			r.spoil("two files that change places", func() {
				a, b := r.text(all[i-1]), r.text(path)
				r.set(path, a)
				r.set(all[i-1], b)
			})
		}
	}
	r.spoil("a head that goes", func() { os.Remove(r.files("*.head")[0]) })
	r.spoil("all files of the chain go", func() {
		for _, path := range all {
			os.Remove(path)
		}
	})
}

func TestTheLineThatWasChangedIsNamed(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	path := r.files("*.jsonl")[0]
	text := r.text(path)
	r.set(path, bytes.Replace(text, []byte(`"serial":"2"`), []byte(`"serial":"3"`), 1))
	line := bytes.Count(text[:bytes.Index(text, []byte(`"serial":"2"`))], []byte("\n")) + 1
	faults := r.verify().Faults
	if len(faults) != 1 || faults[0].Line != line || faults[0].File != path || !strings.Contains(faults[0].What, "it was changed") {
		t.Errorf("faults %v, want line %d", faults, line)
	}
}

// Hashes alone are no proof: whoever can write the files can make them anew.
func TestAChainThatWasMadeAnewIsNotSigned(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	stranger, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(r.dir)
	o := r.options("ca-1")
	o.Certify, o.Issuer = func(key crypto.PublicKey) ([]*x509.Certificate, error) {
		return stranger.CertifyLedger(key, Subject("ca-1"))
	}, stranger.Issuer
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	end := r.run(l)
	l.Issued(decision(1))
	end()
	r.wantFault("no root that was given vouches for its signer")
	if chain := r.verify().Chains[0]; chain.Signed != 0 {
		t.Errorf("chain %+v", chain)
	}

	// Nor does a certificate of another kind do, such as a workload's.
	os.RemoveAll(r.dir)
	o = r.options("ca-1")
	o.Certify = func(key crypto.PublicKey) ([]*x509.Certificate, error) {
		return r.ca.Certify(key, spiffeid.RequireFromString(web), 0)
	}
	if l, err = Open(o); err != nil {
		t.Fatal(err)
	}
	end = r.run(l)
	l.Issued(decision(1))
	end()
	r.wantFault("is not one for the ledger of ca-1")

	// And without a signature nothing is signed.
	os.RemoveAll(r.dir)
	o.Certify = nil
	if l, err = Open(o); err != nil {
		t.Fatal(err)
	}
	end = r.run(l)
	l.Issued(decision(1))
	end()
	if chain := r.wantWhole().Chains[0]; chain.Signed != 0 || chain.Unsigned == 0 {
		t.Errorf("chain %+v", chain)
	}
}

// An older state of all files, with the head that belonged to it, is a good ledger: only
// what was kept elsewhere tells.
func TestAnAnchorFindsAnOlderStateThatWasPutBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keep("ca-1", 3)
	before := map[string][]byte{}
	for _, path := range r.files("*") {
		before[path] = r.text(path)
	}
	r.keep("ca-1", 3)
	chain := r.wantWhole().Chains[0]
	for _, path := range r.files("*") {
		os.Remove(path)
	}
	for path, text := range before {
		r.set(path, text)
	}
	r.wantWhole()
	ask := func(anchor Checkpoint) []Fault {
		report, err := Verify(Question{Dir: r.dir, Roots: r.ca.Roots(), Anchors: []Checkpoint{anchor}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return report.Faults
	}
	if faults := ask(Checkpoint{Replica: "ca-1", Seq: chain.Last, Hash: chain.Hash}); len(faults) != 1 || !strings.Contains(faults[0].What, "an anchor says that it had come to seq") {
		t.Errorf("faults %v", faults)
	}
	if faults := ask(Checkpoint{Replica: "ca-1", Seq: 3, Hash: chain.Hash}); len(faults) != 1 || !strings.Contains(faults[0].What, "an anchor has another hash of it") {
		t.Errorf("faults %v", faults)
	}
	if faults := ask(Checkpoint{Replica: "ca-9", Seq: 3, Hash: chain.Hash}); len(faults) != 1 || !strings.Contains(faults[0].What, "there is no chain of ca-9") {
		t.Errorf("faults %v", faults)
	}
}

func TestAPartOfALedgerIsVerifiedAsThat(t *testing.T) {
	t.Parallel()
	r := spoiled(t)
	files := r.files("*.jsonl")
	report, err := Verify(Question{Files: files, Roots: r.ca.Roots()}, nil)
	if notes := strings.Join(report.Chains[0].Notes, " "); err != nil || len(report.Faults) > 0 || report.Chains[0].Signed == 0 || !strings.Contains(notes, "no head among the files") {
		t.Errorf("without the head: %+v, %+v, %v", report.Faults, report.Chains[0], err)
	}
	report, err = Verify(Question{Files: files[1:], Roots: r.ca.Roots()}, nil)
	if notes := strings.Join(report.Chains[0].Notes, " "); err != nil || len(report.Faults) > 0 || !strings.Contains(notes, "is not among the files") {
		t.Errorf("without the first file: %+v, %+v, %v", report.Faults, report.Chains[0], err)
	}
}

// FuzzVerify: whatever lies in a directory is judged, resumed and followed without a panic,
// and nothing but what the ledger wrote is whole and signed.
func FuzzVerify(f *testing.F) {
	r := newRig(f)
	r.keep("ca-1", 3)
	good, head := r.text(r.files("*.jsonl")[0]), r.text(r.files("*.head")[0])
	f.Add(good, head)
	f.Add(good[:len(good)/2], head)
	f.Add([]byte("{}\n"), []byte("{}\n"))
	f.Add([]byte(`{"seq":18446744073709551615,"kind":"gap","prev":"`+strings.Repeat("0", 64)+`","missing":{"first":1,"last":18446744073709551614}}`+"\n"), []byte{})
	f.Fuzz(func(t *testing.T, text, slots []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{"ca-1-00000001.jsonl": text, "ca-1.head": slots} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		report, err := Verify(Question{Dir: dir, Roots: r.ca.Roots()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if chain := report.Chains[0]; len(report.Faults) == 0 && chain.Signed > 0 && !bytes.HasPrefix(good, text) && !bytes.HasPrefix(text, good) {
			t.Errorf("it is whole and signed: %+v", chain)
		}
		if _, err := json.Marshal(report); err != nil {
			t.Error(err)
		}
		if _, err := Follow(dir).Next(); err != nil {
			t.Error(err)
		}
		if l, err := Open(Options{Dir: dir, Replica: "ca-1"}); err == nil {
			l.head.close()
			for _, out := range l.open {
				out.Close()
			}
		}
	})
}
