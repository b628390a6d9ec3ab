// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/flock"
	"github.com/culvert-mesh/culvert/regular"
)

// Board is where the replicas of a CA tell each other what they know. Each replica has a
// name of its own.
type Board interface {
	// Put replaces what the replica of that name says. Nil takes it away.
	Put(ctx context.Context, name string, text []byte) error
	// All returns what each replica says that has not taken it away, and is not known to be
	// gone.
	All(ctx context.Context) (map[string][]byte, error)
}

// maxReport bounds what is read of one replica.
const maxReport = 16 << 20

// Files is the Board of processes that share a directory: below it, each has a file. Whether
// a process lives is told by the lock that it holds on another one.
type Files struct {
	Dir string // of the CA

	held *os.File // the lock of this process
}

func (f *Files) dir() string { return filepath.Join(f.Dir, ".rekey") }

const (
	reportSuffix = ".json"
	lockSuffix   = ".lock"
)

// Put is part of Board.
func (f *Files) Put(_ context.Context, name string, text []byte) error {
	path := filepath.Join(f.dir(), name)
	if text == nil {
		return f.away(path)
	}
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return err
	}
	if err := f.hold(path + lockSuffix); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil { // #nosec: a report has no secret
		return err
	}
	return os.Rename(path+".new", path+reportSuffix)
}

// hold takes the lock, again if its file is gone: another process may have found it before
// it was locked.
func (f *Files) hold(path string) error {
	if f.held != nil {
		own, err := f.held.Stat()
		there, missing := os.Stat(path)
		if err == nil && missing == nil && os.SameFile(own, there) {
			return nil
		}
		f.held.Close()
		f.held = nil
	}
	held, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := flock.Try(held); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", path, err), held.Close())
	}
	f.held = held
	return nil
}

func (f *Files) away(path string) error {
	err := errors.Join(gone(path+reportSuffix), gone(path+lockSuffix))
	if f.held != nil {
		err = errors.Join(err, f.held.Close())
		f.held = nil
	}
	return err
}

func gone(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// All is part of Board. What a process left that has ended is removed.
func (f *Files) All(context.Context) (map[string][]byte, error) {
	entries, err := os.ReadDir(f.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, entry := range entries {
		name, isReport := strings.CutSuffix(entry.Name(), reportSuffix)
		if !isReport {
			continue
		}
		path := filepath.Join(f.dir(), name)
		if f.ended(path + lockSuffix) {
			if err := errors.Join(gone(path+reportSuffix), gone(path+lockSuffix)); err != nil {
				return nil, err
			}
			continue
		}
		text, err := regular.ReadFile(path+reportSuffix, maxReport)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[name] = text
	}
	return all, nil
}

// ended reports whether no process holds the lock.
func (f *Files) ended(path string) bool {
	lock, err := os.Open(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer lock.Close()
	return flock.Try(lock) == nil
}
