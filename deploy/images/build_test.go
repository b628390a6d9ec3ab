// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const repository = "../.."

func TestImagesDoNotDependOnWhereTheyAreBuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("links all programs twice, which takes most of a minute")
	}
	here, elsewhere := t.TempDir(), t.TempDir()
	copySources(t, elsewhere)
	var first, second bytes.Buffer
	if err := build(t.Context(), repository, filepath.Join(here, "images"), []string{runtime.GOARCH}, &first); err != nil {
		t.Fatal(err)
	}
	if err := build(t.Context(), elsewhere, filepath.Join(elsewhere, "images"), []string{runtime.GOARCH}, &second); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Errorf("digests here:\n%selsewhere:\n%s", &first, &second)
	}
	for _, p := range products {
		if !strings.Contains(first.String(), "localhost/culvert/"+p.program+":dev sha256:") {
			t.Errorf("no digest of %s in:\n%s", p.program, &first)
		}
		name := filepath.Join("images", p.program+"."+runtime.GOARCH+".spdx.json")
		parts, err1 := os.ReadFile(filepath.Join(here, name))
		same, err2 := os.ReadFile(filepath.Join(elsewhere, name))
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(parts, same) {
			t.Errorf("what %s is made of differs, %v:\n%s\n%s", p.program, err, parts, same)
		}
	}
}

// copySources copies the sources of the programs, without git's files.
func copySources(t *testing.T, to string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(repository, path)
		if err != nil {
			return err
		}
		switch {
		case name != "." && strings.HasPrefix(name, "."), name == "bin", name == "test", name == "bench":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestArchitecturesAreThoseOfWhichThereAreImages(t *testing.T) {
	for _, list := range []string{"", "amd64,", "riscv64", "amd64 arm64"} {
		if _, err := parseArchs(list); err == nil || !strings.Contains(err.Error(), "-arch") {
			t.Errorf("-arch %q: %v, want an error that names the flag", list, err)
		}
	}
	if archs, err := parseArchs("amd64,arm64"); err != nil || len(archs) != 2 {
		t.Errorf("both: %v, %v", archs, err)
	}
}
