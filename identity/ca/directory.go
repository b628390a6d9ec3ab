// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Open reads the CA that lives in dir. Only if dir is empty, or does not
// exist, is a new one made: whatever else is found there may be the trace of a
// CA that nodes still trust, so a part of the set is refused, and so is a set
// that does not fit together or has expired.
func Open(dir string, opts Options) (*CA, error) {
	c, err := New(opts)
	if err != nil {
		return nil, err
	}
	if err := c.Load(context.Background(), directory(dir)); err != nil {
		return nil, err
	}
	return c, nil
}

// directory is a Store whose CA is four files.
type directory string

func (d directory) String() string { return string(d) }

// Read returns the files, if none is missing.
func (d directory) Read(context.Context) (Files, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, err
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	missing, err := d.survey()
	if err != nil || len(missing) > 0 {
		return nil, err
	}
	files := Files{}
	for _, name := range fileNames {
		if files[name], err = d.read(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Create writes the files, if all are missing.
func (d directory) Create(_ context.Context, files Files) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	missing, err := d.survey()
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return ErrExists
	}
	return d.write(files)
}

// lock holds other processes that open the same directory off until unlock.
// It locks the directory itself, so that the lock leaves no file behind.
func (d directory) lock() (unlock func(), err error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %v", d, err)
	}
	return func() { f.Close() }, nil
}

// survey returns which files are missing: none, or all if dir is empty.
func (d directory) survey() (missing []string, err error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var found, strange []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case slices.Contains(fileNames, name):
			found = append(found, name)
		case name == "lost+found": // a freshly made file system
		default:
			strange = append(strange, name)
		}
	}
	for _, name := range fileNames {
		if !slices.Contains(found, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return nil, nil // what else lies there, say a Secret's ..data, is not ours
	case len(found) > 0:
		return nil, fmt.Errorf("%s holds only a part of a CA: missing %s: restore it from a backup, or, if no node trusts this CA yet, empty the directory",
			d, strings.Join(missing, ", "))
	case len(strange) > 0:
		return nil, fmt.Errorf("%s holds no CA, yet is not empty (%s): a new CA is made only in an empty directory",
			d, few(strange))
	}
	return missing, nil
}

// few is a list of names that stays short.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// read returns a file, and of one that is too long the beginning.
func (d directory) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// write writes all files or names none. They are complete on disk under
// other names before the first gets its own; a crash from then on leaves a
// part of the set, which survey refuses: nobody makes another CA over it.
func (d directory) write(files Files) error {
	var staged []string
	defer func() {
		for _, path := range staged {
			os.Remove(path) // those renamed are no longer there
		}
	}()
	for _, name := range fileNames {
		path := filepath.Join(string(d), "."+name+".new")
		staged = append(staged, path)
		mode := os.FileMode(0o600)
		if name == RootFile || name == IssuerFile {
			mode = 0o644
		}
		if err := writeSynced(path, files[name], mode); err != nil {
			return err
		}
	}
	for i, name := range fileNames {
		if err := os.Rename(staged[i], filepath.Join(string(d), name)); err != nil {
			return err
		}
	}
	return syncDir(string(d))
}

func writeSynced(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
