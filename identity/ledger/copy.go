// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Names are those of the files in the ledger's directory, of all replicas, in the order in
// which they are copied: heads come first, so that the lines which they promise are in the
// copy, and a chain's files follow each other.
func (l *Ledger) Names() (names []string, err error) {
	chains, err := chainsOf(l.opts.Dir)
	if err != nil {
		return nil, err
	}
	replicas := slices.Sorted(maps.Keys(chains))
	for _, replica := range replicas {
		if head := chains[replica].head; head != "" {
			names = append(names, filepath.Base(head))
		}
	}
	for _, replica := range replicas {
		for _, file := range chains[replica].files {
			names = append(names, filepath.Base(file.path))
		}
	}
	return names, nil
}

// Piece returns up to most bytes of one of these files, from an offset on: fewer if it ends
// there. It follows no link, and waits for no pipe: other hands may write to the directory,
// and what is read here goes to others.
func (l *Ledger) Piece(name string, from int64, most int) ([]byte, error) {
	if ChainOf(name) == "" {
		return nil, fmt.Errorf("%q is no file of a ledger: %w", name, fs.ErrNotExist)
	}
	path := filepath.Join(l.opts.Dir, name)
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !named.Mode().IsRegular() || !os.SameFile(named, opened) {
		return nil, fmt.Errorf("%s is not a regular file: %w", path, fs.ErrNotExist)
	}
	piece := make([]byte, most)
	n, err := f.ReadAt(piece, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return piece[:n], nil
}

// ChainOf returns the replica whose chain a file of this name is part of; empty if it is no
// name that a ledger gives to its files.
func ChainOf(name string) string {
	if name != filepath.Base(name) {
		return ""
	}
	for replica := range group([]string{name}) {
		return replica
	}
	return ""
}
