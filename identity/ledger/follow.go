// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"io"
	"os"
	"slices"
)

// Follower reads a ledger as it grows. It verifies nothing.
type Follower struct {
	dir  string
	read map[string]int64 // by path: up to where
}

// Follow returns a Follower of the ledger in dir that has read nothing.
func Follow(dir string) *Follower { return &Follower{dir: dir, read: map[string]int64{}} }

// Entry is a record with its line as it was written.
type Entry struct {
	Record
	Line []byte
}

// Next returns what was added since the last call, in the order of time. What is no record
// is left out.
func (f *Follower) Next() (all []Entry, err error) {
	chains, err := chainsOf(f.dir)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		for _, file := range c.files {
			added, err := f.more(file.path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			all = append(all, added...)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return all, nil
}

func (f *Follower) more(path string) (all []Entry, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if stat, err := in.Stat(); err != nil || stat.Size() == f.read[path] {
		return nil, err
	}
	if _, err := in.Seek(f.read[path], io.SeekStart); err != nil {
		return nil, err
	}
	for added := newLines(in); ; {
		line, err := added.next()
		if line == nil || errors.Is(err, errTorn) {
			return all, nil
		}
		f.read[path] += int64(len(line)) + 1
		if r, err := decode(line); err == nil {
			all = append(all, Entry{r, slices.Clone(line)})
		}
	}
}
