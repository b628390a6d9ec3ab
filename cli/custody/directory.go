// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/flock"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// Directory is a Keep on a machine's disk.
type Directory string

func (d Directory) String() string { return "directory " + string(d) }

// Read is part of Place. It makes nothing, and locks nothing: it also reads the mount
// of a Secret, whose files are symbolic links.
func (d Directory) Read(context.Context) (ca.Files, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var files ca.Files
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue // of a Secret's mount, or not complete
		}
		text, err := ReadFile(filepath.Join(string(d), entry.Name()))
		switch {
		case errors.Is(err, errNoFile):
			continue
		case err != nil:
			return nil, err
		}
		if files == nil {
			files = ca.Files{}
		}
		files[entry.Name()] = text
	}
	return files, nil
}

var errNoFile = errors.New("not a regular file")

// ReadFile reads a regular file that is not larger than a CA's may be. A FIFO is none,
// and is not waited for.
func ReadFile(path string) ([]byte, error) {
	if stat, err := os.Stat(path); err != nil || !stat.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s: %w", path, errNoFile))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, err
}

// Create is part of Keep. The directory must be empty, or not exist.
func (d Directory) Create(ctx context.Context, files ca.Files) error {
	entries, err := os.ReadDir(string(d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "lost+found" })
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty (%s): what is in it may be the trace of a CA that nodes still trust", d, entries[0].Name())
	}
	return ca.Directory{Path: string(d)}.Create(ctx, files)
}

// Replace is part of Keep.
func (d Directory) Replace(ctx context.Context, read, next ca.Files) error {
	now, err := d.Read(ctx)
	if err != nil {
		return err
	}
	for name, text := range read {
		if !bytes.Equal(now[name], text) {
			return fmt.Errorf("%s: %s was changed by another hand meanwhile", d, name)
		}
	}
	for name := range next {
		if _, had := read[name]; !had && now[name] != nil {
			return fmt.Errorf("%s: %s was written by another hand meanwhile", d, name)
		}
	}
	store := ca.Directory{Path: string(d)}
	switch was, err := store.Read(ctx); {
	case err == nil:
		return store.Replace(ctx, was, next)
	case errors.Is(err, ca.ErrUnreachable):
		return err
	}
	return d.write(next) // a part of a CA, which no program uses: it becomes whole by this
}

// write puts files in place that are complete on disk under other names before. The
// keys come first: a CA that looks in between finds a pair that does not fit, and
// keeps what it has.
func (d Directory) write(files ca.Files) (err error) {
	staged := map[string]string{}
	defer func() {
		for _, path := range staged {
			os.Remove(path) // those renamed are no longer there
		}
	}()
	for name, text := range files {
		own := filepath.Join(string(d), name)
		if staged[name], err = stage(own, text, modeOf(text)); err != nil {
			return err
		}
	}
	for _, keys := range []bool{true, false} {
		for name, path := range staged {
			if holdsKey(files[name]) != keys {
				continue
			}
			if err := os.Rename(path, filepath.Join(string(d), name)); err != nil {
				return err
			}
		}
	}
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func holdsKey(text []byte) bool { return bytes.Contains(text, []byte("PRIVATE KEY-----")) }

func modeOf(text []byte) os.FileMode {
	if holdsKey(text) {
		return 0o600
	}
	return 0o644
}

// stage writes a file that is to be renamed to own, and returns its path. It has the mode
// and the owner of own, or, if there is none, the given mode and the directory's owner. What
// a killed process has staged is in nobody's way: the name is new.
func stage(own string, content []byte, mode os.FileMode) (path string, err error) {
	f, err := os.CreateTemp(filepath.Dir(own), "."+filepath.Base(own)+".new*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), ca.Inherit(f, own), f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name()) // half of it is of no use
	}
	return f.Name(), err
}

// ReplaceFile puts what is complete on disk in the place of a file that everybody may
// read, and keeps its mode and owner. It does so only if the file holds what was read, and
// one process at a time: ErrChanged for all others.
func ReplaceFile(path string, read, next []byte) error {
	staged, err := stage(path, next, 0o644)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		defer dir.Close() // which unlocks it
		err = flock.Wait(dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("lock the directory of %s: %v", path, err), os.Remove(staged))
	}
	now, err := ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(now, read) {
		return errors.Join(fmt.Errorf("%s: %w", path, ErrChanged), os.Remove(staged))
	}
	return os.Rename(staged, path)
}

// ErrChanged is wrapped when a file is not replaced because it does not hold any more what
// was read.
var ErrChanged = errors.New("it was changed by another hand meanwhile")

// WriteNew writes a file that only its owner may read, and refuses to write over one.
func WriteNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: nothing is written over it", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path) // half of it is of no use
	}
	return err
}
