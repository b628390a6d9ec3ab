// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// promised is what a head says.
type promised struct {
	path  string
	slots [2]*Checkpoint
	err   error
}

// findTries bounds how often files may go while they are found.
const findTries = 10

// find returns the chains, and their heads as they were before the files were listed: what
// a head names is in the files by then. It finds anew if files went in between, since the
// heads that promise their removal are later ones.
func (v *verifier) find() (chains map[string]*chain, heads map[string]promised, err error) {
	before, err := v.list()
	for range findTries {
		if err != nil {
			return nil, nil, err
		}
		if heads, err = headsOf(before); err != nil {
			return nil, nil, err
		}
		if chains, err = v.list(); err == nil && !went(before, chains) {
			break
		}
		before = chains
	}
	return chains, heads, err
}

func (v *verifier) list() (map[string]*chain, error) {
	if v.question.Dir == "" {
		return group(v.question.Files), nil
	}
	return chainsOf(v.question.Dir)
}

func headsOf(chains map[string]*chain) (map[string]promised, error) {
	heads := map[string]promised{}
	for replica, c := range chains {
		if c.head == "" {
			continue
		}
		in, err := os.Open(c.head)
		if errors.Is(err, fs.ErrNotExist) {
			continue // all files of its chain went
		}
		if err != nil {
			return nil, err
		}
		slots, err := readSlots(in)
		in.Close()
		heads[replica] = promised{c.head, slots, err}
	}
	return heads, nil
}

// went reports whether a file of before is not there any more.
func went(before, after map[string]*chain) bool {
	for replica, c := range before {
		if len(c.files) > 0 && (after[replica] == nil || !slices.Contains(after[replica].files, c.files[0])) {
			return true
		}
	}
	return false
}
