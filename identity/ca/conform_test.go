// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/catest"
)

func TestADirectoryIsAStore(t *testing.T) {
	catest.Conform(t, func(t *testing.T) catest.Place { return directory(filepath.Join(t.TempDir(), "ca")) })
}

func TestMemoryIsAStore(t *testing.T) {
	catest.Conform(t, func(*testing.T) catest.Place { return &memory{} })
}

// directory is the path of one.
type directory string

func (d directory) Store(testing.TB) ca.Store { return ca.Directory{Path: string(d)} }

func (d directory) Files(t testing.TB) ca.Files {
	entries, err := os.ReadDir(string(d))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	files := ca.Files{}
	for _, entry := range entries {
		if entry.Name() == ca.BundleFile {
			continue
		}
		if files[entry.Name()], err = os.ReadFile(filepath.Join(string(d), entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func (d directory) Set(t testing.TB, files ca.Files) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	for name := range d.Files(t) {
		if _, kept := files[name]; !kept {
			if err := os.Remove(filepath.Join(string(d), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(string(d), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

type memory struct{ ca.Memory }

func (m *memory) Store(testing.TB) ca.Store { return &m.Memory }

func (m *memory) Files(t testing.TB) ca.Files {
	files, err := m.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if files != nil {
		delete(files, ca.BundleFile)
	}
	return files
}

func (m *memory) Set(t testing.TB, files ca.Files) {
	before, err := m.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := ca.Files{}
	for name, text := range files {
		next[name] = text
	}
	if record, there := before[ca.BundleFile]; there {
		next[ca.BundleFile] = record
	}
	m.Memory.Set(next)
}
