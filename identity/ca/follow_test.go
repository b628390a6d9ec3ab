// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// followed is a Keeper that runs on a directory.
func followed(t *testing.T, dir string) *Keeper {
	t.Helper()
	k := NewKeeper(KeeperOptions{CA: newCA(t), Store: Directory{Path: dir}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err := k.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return k
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) { // half of pollEvery
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// put replaces a file as an editor does.
func put(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	replace(t, dir, "next", text)
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func (k *Keeper) signsBy(files Files) func() bool {
	return func() bool { return string(encodeCert(k.ca.Issuer())) == string(files[IssuerFile]) }
}

// Whatever happens to a file: the CA signs on, says so once, and goes on with what is
// right as soon as it is there.
func TestWhatHappensToTheFilesOfADirectoryIsNoticedAndBlocksNothing(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"deleted": func(t *testing.T, path string) {},
		"a pipe that nobody writes to": func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a device that has no end": func(t *testing.T, path string) {
			if err := os.Symlink("/dev/zero", path); err != nil {
				t.Fatal(err)
			}
		},
		"1 TiB": func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 1<<40); err != nil {
				t.Fatal(err)
			}
		},
		"half written": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\nMIGH"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			k := followed(t, dir)
			before, err := (Directory{Path: dir}).Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, IssuerKeyFile)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			spoil(t, path)
			within(t, "it is noticed", func() bool { return k.Events()[IssuerValidationFailed] > 0 })
			sign(t, k.ca, plainCSR(t), time.Hour)
			next := reissued(t, before, nil)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			put(t, dir, IssuerFile, next[IssuerFile])
			put(t, dir, IssuerKeyFile, next[IssuerKeyFile])
			within(t, "the right one signs", k.signsBy(next))
			// Each of up to five states that were there on the way, once.
			if n := k.Events()[IssuerValidationFailed]; n > 5 {
				t.Errorf("it was told %d times", n)
			}
		})
	}
}

// A002-19: a Secret that the kubelet mounts, as it lays that out and swaps it.
func TestTheKubeletsSwapOfAMountIsTakenWhole(t *testing.T) {
	dir := t.TempDir()
	files := made(t)
	mount := func(version string, files Files) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			replace(t, filepath.Join(dir, version), name, text)
		}
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..2026_1", files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	k := followed(t, dir)
	for i, version := range []string{"..2026_2", "..2026_3", "..2026_4"} {
		next := reissued(t, files, nil)
		watch := env.NewStopwatch()
		mount(version, next)
		within(t, "it is taken", k.signsBy(next))
		if took := watch.Elapsed(); took > 10*time.Second {
			t.Errorf("after %v", took)
		}
		if err := os.RemoveAll(filepath.Join(dir, []string{"..2026_1", "..2026_2", "..2026_3"}[i])); err != nil {
			t.Fatal(err)
		}
	}
	if n := k.Events()[IssuerValidationFailed]; n != 0 {
		t.Errorf("%d times a mixture of two versions was read", n)
	}
}

// The kubelet may swap the link between two reads. So the link is read once, and all
// files below what it led to: here one name leads elsewhere.
func TestFilesOfAMountAreReadOfOneVersion(t *testing.T) {
	dir := t.TempDir()
	former := made(t)
	next := reissued(t, former, nil)
	if err := os.Mkdir(filepath.Join(dir, "..2026_2"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range next {
		replace(t, filepath.Join(dir, "..2026_2"), name, text)
	}
	if err := os.Symlink("..2026_2", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for name := range next {
		if name == IssuerFile {
			replace(t, dir, name, former[name])
		} else if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := (Directory{Path: dir}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(files[IssuerFile]) != string(next[IssuerFile]) {
		t.Error("a file of another version")
	}
}

// The directory's name leads to another directory from one moment to the next, or to
// nothing for a while.
func TestAReplacedDirectoryIsFollowedByItsName(t *testing.T) {
	dir := newDir(t)
	k := followed(t, dir)
	files, err := (Directory{Path: dir}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, away := range []time.Duration{0, 2 * time.Second} {
		next, staged, lost := reissued(t, files, nil), t.TempDir(), k.Events()[StoreLost]
		for name, text := range next {
			replace(t, staged, name, text)
		}
		if err := os.Rename(dir, filepath.Join(t.TempDir(), "former")); err != nil {
			t.Fatal(err)
		}
		if away > 0 {
			within(t, "it is missed", func() bool { return k.Events()[StoreLost] > lost })
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("it was made: %v", err)
			}
			sign(t, k.ca, plainCSR(t), time.Hour)
		}
		if err := os.Rename(staged, dir); err != nil {
			t.Fatal(err)
		}
		within(t, "what is there now signs", k.signsBy(next))
		again := reissued(t, files, nil)
		put(t, dir, IssuerKeyFile, again[IssuerKeyFile])
		put(t, dir, IssuerFile, again[IssuerFile])
		within(t, "the new directory is watched", k.signsBy(again))
	}
}

// A000-2: a mount that cannot be written keeps no record. The time of its files does.
func TestADirectoryThatCannotBeWrittenHasAGenerationAllTheSame(t *testing.T) {
	source, dir := t.TempDir(), t.TempDir()
	files := made(t)
	for name, text := range files {
		replace(t, source, name, text)
	}
	env.Need(t, env.Netns) // what may make a netns may mount
	if err := syscall.Mount(source, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(filepath.Join(source, RootFile), at, at); err != nil {
		t.Fatal(err)
	}
	generationOf := func() uint64 {
		t.Helper()
		c, err := Open(dir, Options{TrustDomain: td})
		if err != nil {
			t.Fatal(err)
		}
		generation, _ := c.Bundle()
		return generation
	}
	if one, again := generationOf(), generationOf(); one != uint64(at.Unix()) || again != one {
		t.Errorf("generations %d and %d, want %d", one, again, at.Unix())
	}
	replace(t, source, RootFile, append(files[RootFile], made(t)[RootFile]...))
	if next := generationOf(); next <= uint64(at.Unix()) {
		t.Errorf("generation %d of more roots", next)
	}
	k := followed(t, dir)
	if r := k.Renewal(); r.State != RenewalAutomatic && r.State != RenewalReadOnly {
		t.Errorf("%+v", r)
	}
}
