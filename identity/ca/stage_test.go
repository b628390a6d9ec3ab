// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// killed has a process run the first n steps of writing files into dir, and then be
// killed, as by SIGKILL of anyone else. It returns how many steps there are.
func killed(t *testing.T, dir string, files Files, n int) {
	t.Helper()
	from := t.TempDir()
	for name, text := range files {
		replace(t, from, name, text)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAChildIsKilled$")
	cmd.Env = append(os.Environ(), "CA_CHILD="+dir, "CA_FROM="+from, fmt.Sprintf("CA_STEPS=%d", n))
	out, err := cmd.CombinedOutput()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed: %v\n%s", err, out)
	}
}

func TestAChildIsKilled(t *testing.T) {
	dir := os.Getenv("CA_CHILD")
	if dir == "" {
		return // of the tests below
	}
	n, err := strconv.Atoi(os.Getenv("CA_STEPS"))
	if err != nil {
		t.Fatal(err)
	}
	files := Files{}
	for _, name := range append(slices.Clone(fileNames), RekeyFile) {
		if text, err := os.ReadFile(filepath.Join(os.Getenv("CA_FROM"), name)); err == nil {
			files[name] = text
		}
	}
	stage, commit := (Directory{Path: dir}).steps(files)
	for _, step := range append(stage, commit...)[:n] {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {}
}

// stepsOf says how many steps write files, and after how many the first has its name.
func stepsOf(files Files) (all, staged int) {
	stage, commit := (Directory{}).steps(files)
	return len(stage) + len(commit), len(stage)
}

func TestAFirstStartThatWasKilledIsEndedByTheNext(t *testing.T) {
	files := made(t)
	all, staged := stepsOf(files)
	for n := range all + 1 {
		for _, half := range []bool{false, true} {
			dir := t.TempDir()
			killed(t, dir, files, n)
			if half && n > 0 && n < staged {
				halve(t, dir)
			}
			c, err := Open(dir, Options{TrustDomain: td})
			if err != nil {
				t.Fatalf("after %d steps: %v", n, err)
			}
			same := string(encodeCert(c.Roots()[0])) == string(files[RootFile])
			if complete := n >= staged-1 && !(half && n < staged); same != complete {
				t.Errorf("after %d of %d steps (half %v): the root of before is in force: %v", n, all, half, same)
			}
			onlyOwnNames(t, dir)
		}
	}
}

// halve truncates what is staged last, as a full disk or a power failure does.
func halve(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, ".*.new"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	last := slices.Max(paths)
	info, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

func onlyOwnNames(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !slices.Contains(append(slices.Clone(fileNames), BundleFile), entry.Name()) {
			t.Errorf("%s is left", entry.Name())
		}
	}
}

func TestARenewalThatWasKilledIsTheOldIssuerOrTheNew(t *testing.T) {
	dir := newDir(t)
	before, err := (Directory{Path: dir}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := reissued(t, before, nil)
	next = Files{IssuerFile: next[IssuerFile], IssuerKeyFile: next[IssuerKeyFile]}
	killedAnywhere(t, before, next, func(c *CA, written bool) {
		isNew := string(encodeCert(c.Issuer())) == string(next[IssuerFile])
		if !isNew && string(encodeCert(c.Issuer())) != string(before[IssuerFile]) {
			t.Fatal("neither")
		}
		if written && !isNew {
			t.Error("the old one")
		}
	})
}

// killedAnywhere has a process that replaces files be killed after each of its steps, and
// the CA be opened after that. written: the first of the files had its name by then.
func killedAnywhere(t *testing.T, before, next Files, opened func(c *CA, written bool)) {
	t.Helper()
	all, staged := stepsOf(next)
	for n := range all + 1 {
		for _, half := range []bool{false, true} {
			dir := t.TempDir()
			for name, text := range before {
				replace(t, dir, name, text)
			}
			killed(t, dir, next, n)
			if half && n > 0 && n < staged {
				halve(t, dir)
			}
			c, err := Open(dir, Options{TrustDomain: td})
			if err != nil {
				t.Fatalf("after %d steps: %v", n, err)
			}
			opened(c, n > staged)
			onlyOwnNames(t, dir)
		}
	}
}

// What is staged is ended or removed only if nothing is lost by that.
func TestAPartWithSomethingStagedIsRefusedAndKept(t *testing.T) {
	dir := newDir(t)
	key := filepath.Join(dir, IssuerKeyFile)
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, dir, stagedName(IssuerKeyFile), text[:len(text)/2])
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, Options{TrustDomain: td}, "missing "+IssuerKeyFile, "culvert ca recover")
	replace(t, dir, stagedName(IssuerKeyFile), text)
	if _, err := Open(dir, Options{TrustDomain: td}); err != nil {
		t.Error(err)
	}
}

// A001-7, A001-10: the same story as of threads, told of processes.
func TestManyProcessesThatStartAtOnceMakeOneCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var all sync.WaitGroup
	said := make([][]byte, 12)
	for i := range said {
		all.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestAChildOpens$")
			cmd.Env = append(os.Environ(), "CA_OPEN="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			said[i] = out
		})
	}
	all.Wait()
	for _, text := range said[1:] {
		if !bytes.HasPrefix(text, []byte("root ")) || firstLine(text) != firstLine(said[0]) {
			t.Errorf("one says %q, another %q", firstLine(said[0]), firstLine(text))
		}
	}
}

func TestAChildOpens(t *testing.T) {
	dir := os.Getenv("CA_OPEN")
	if dir == "" {
		return // of the test above
	}
	c, err := Open(dir, Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	generation, roots := c.Bundle()
	fmt.Printf("root %s issuer %s generation %d\n", Fingerprint(roots[0]), Fingerprint(c.Issuer()), generation)
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

func TestAFullDiskLeavesWhatWasThere(t *testing.T) {
	dir := newDir(t)
	d := Directory{Path: dir}
	was, err := d.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	// A directory in the way of the second staged file: what is left of the first goes.
	if err := os.MkdirAll(filepath.Join(dir, stagedName(IssuerFile), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	next := reissued(t, was, nil)
	if err := d.write(Files{IssuerFile: next[IssuerFile], IssuerKeyFile: next[IssuerKeyFile]}); err == nil {
		t.Fatal("written")
	}
	if err := os.RemoveAll(filepath.Join(dir, stagedName(IssuerFile))); err != nil {
		t.Fatal(err)
	}
	if contents(t, dir) != before {
		t.Error("it was changed")
	}
}

func TestARenewedFileHasTheModeAndTheOwnerOfTheOneBefore(t *testing.T) {
	dir := newDir(t)
	d := Directory{Path: dir}
	key := filepath.Join(dir, IssuerKeyFile)
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(key, 65532, 65531); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Stat(key)
	if err != nil {
		t.Fatal(err)
	}
	was, err := d.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := reissued(t, was, nil)
	if err := d.Replace(t.Context(), was, Files{IssuerFile: next[IssuerFile], IssuerKeyFile: next[IssuerKeyFile]}); err != nil {
		t.Fatal(err)
	}
	got, err := os.Stat(key)
	if err != nil {
		t.Fatal(err)
	}
	w, g := want.Sys().(*syscall.Stat_t), got.Sys().(*syscall.Stat_t)
	if got.Mode() != want.Mode() || g.Uid != w.Uid || g.Gid != w.Gid || os.SameFile(got, want) {
		t.Errorf("mode %v owner %d:%d, want %v %d:%d", got.Mode(), g.Uid, g.Gid, want.Mode(), w.Uid, w.Gid)
	}
}

// A state is stored whole or not at all, and a file that goes does so after the others came.
func TestAStateThatAKilledProcessStoredIsWholeOrNothing(t *testing.T) {
	state := Files{RekeyFile: []byte(`{"state": "distribute"}`)}
	all, staged := stepsOf(state)
	for n := range all + 1 {
		for _, half := range []bool{false, true} {
			if half && (n == 0 || n >= staged) {
				continue
			}
			dir := t.TempDir()
			d := Directory{Path: dir}
			if err := d.write(made(t)); err != nil {
				t.Fatal(err)
			}
			killed(t, dir, state, n)
			if half {
				halve(t, dir)
			}
			files, err := d.Read(t.Context())
			if err != nil {
				t.Fatalf("after %d steps: %v", n, err)
			}
			text, there := files[RekeyFile]
			if want := n > 0 && !half; there != want || there && string(text) != string(state[RekeyFile]) {
				t.Errorf("after %d steps (half %v): %q", n, half, text)
			}
			if leftovers, _ := filepath.Glob(filepath.Join(dir, ".*.new")); leftovers != nil {
				t.Errorf("%v is left", leftovers)
			}
		}
	}
}

func TestAFileOfNilIsRemovedAfterTheOthersCame(t *testing.T) {
	dir := t.TempDir()
	d := Directory{Path: dir}
	files := made(t)
	if err := d.write(files); err != nil {
		t.Fatal(err)
	}
	was, err := d.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Replace(t.Context(), was, Files{RootKeyFile: nil, IssuerFile: files[IssuerFile]}); err != nil {
		t.Fatal(err)
	}
	now, err := d.Read(t.Context())
	if _, there := now[RootKeyFile]; err != nil || there || now[IssuerFile] == nil {
		t.Errorf("%v, %v", now.names(), err)
	}
}
