// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

const headSuffix = ".head"

var fileName = regexp.MustCompile(`^(.+)-([0-9]{8,})\.jsonl$`)

func nameOfFile(replica string, number uint64) string {
	return fmt.Sprintf("%s-%08d.jsonl", replica, number)
}

// chain is one replica's files in a directory.
type chain struct {
	replica string
	files   []file // by number
	head    string // path; empty if there is none
}

type file struct {
	path   string
	number uint64
}

// chainsOf returns the chains of a directory by the names of their replicas. Other files
// are none of ours.
func chainsOf(dir string) (map[string]*chain, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	return group(paths), nil
}

// group sorts paths into chains.
func group(paths []string) map[string]*chain {
	all := map[string]*chain{}
	of := func(replica string) *chain {
		if all[replica] == nil {
			all[replica] = &chain{replica: replica}
		}
		return all[replica]
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if parts := fileName.FindStringSubmatch(name); parts != nil {
			if number, err := strconv.ParseUint(parts[2], 10, 64); err == nil {
				c := of(parts[1])
				c.files = append(c.files, file{path, number})
			}
		} else if replica := name[:len(name)-len(filepath.Ext(name))]; replica != "" && filepath.Ext(name) == headSuffix {
			of(replica).head = path
		}
	}
	for _, c := range all {
		slices.SortFunc(c.files, func(a, b file) int {
			switch {
			case a.number < b.number:
				return -1
			case a.number > b.number:
				return 1
			}
			return 0
		})
	}
	return all
}

// errTorn is of a line without an end.
var errTorn = errors.New("the line has no end")

// lines reads a file line by line.
type lines struct {
	in     *bufio.Reader
	number int   // of the line that was read last, from 1
	offset int64 // behind it
}

func newLines(in io.Reader) *lines { return &lines{in: bufio.NewReaderSize(in, maxLine)} }

// next returns a line without its end, valid until the next call. It returns io.EOF behind
// the last one, and errTorn with what there is of a line without an end.
func (l *lines) next() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	switch {
	case len(line) == 0 && errors.Is(err, io.EOF):
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		l.number++
		return line, errTorn
	case errors.Is(err, bufio.ErrBufferFull):
		l.number++
		return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
	case err != nil:
		return nil, err
	}
	l.number++
	l.offset += int64(len(line))
	return bytes.TrimSuffix(line, []byte("\n")), nil
}

// hasLine reports whether the files of a chain have the line that a checkpoint names.
func hasLine(files []file, c Checkpoint) (bool, error) {
	for _, f := range slices.Backward(files) {
		first, there, err := inFile(f, c)
		if err != nil || there || first != 0 && first <= c.Seq {
			return there, err
		}
	}
	return false, nil
}

// inFile is hasLine of one file, whose first line has the number first; 0: it has none.
func inFile(f file, c Checkpoint) (first uint64, there bool, err error) {
	in, err := os.Open(f.path)
	if err != nil {
		return 0, false, err
	}
	defer in.Close()
	for all := newLines(in); ; {
		line, err := all.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTorn):
			return first, false, nil
		case err != nil:
			return first, false, fmt.Errorf("%s: line %d: %w", f.path, all.number, err)
		}
		r, err := decode(line)
		switch {
		case err != nil:
			continue
		case first == 0:
			first = r.Seq
		}
		if r.Seq > c.Seq {
			return first, false, nil
		}
		if r.Seq == c.Seq && hashOf(line).String() == c.Hash {
			return first, true, nil
		}
	}
}
