// SPDX-License-Identifier: Apache-2.0

// Package report makes the archive of a bug report: a tar.gz that is bounded, says in an
// index what is in it and what is not, and holds no private key and no token.
package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Index is the name of the file that says what is in an archive.
const Index = "INDEX.txt"

// Archive is one that is being made.
type Archive struct {
	path string
	root string // of all names in it
	most int64  // bytes, before they are compressed
	now  time.Time

	mu    sync.Mutex // guards what follows
	file  *os.File
	zip   *gzip.Writer
	tar   *tar.Writer
	size  int64
	index []string
	err   error // of writing; from then on nothing is written
}

// Create makes an archive that nobody else reads, in a new file. Its names begin with root.
func Create(path, root string, most int64, now time.Time) (*Archive, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s is there already", path)
		}
		return nil, err
	}
	a := &Archive{path: path, root: root, most: most, now: now, file: file, zip: gzip.NewWriter(file)}
	a.tar = tar.NewWriter(a.zip)
	return a, nil
}

// Add puts a text into the archive, redacted, or the part of it that has room; why tells
// that it is not all there was, else it is empty. Once writing has failed it does nothing.
func (a *Archive) Add(name string, text []byte, why string) {
	text = Redact(text)
	a.mu.Lock()
	defer a.mu.Unlock()
	if room := a.most - a.size; int64(len(text)) > room {
		why = strings.TrimPrefix(why+fmt.Sprintf("; cut at %d of %d bytes: the report is full", max(room, 0), len(text)), "; ")
		text = text[:max(room, 0)]
	}
	a.say(name, fmt.Sprintf("%d bytes", len(text)), why)
	a.write(name, text)
}

// Miss says why something is not in the archive.
func (a *Archive) Miss(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.say(name, "MISSING", string(Redact([]byte(err.Error()))))
}

// say adds a line to the index. The caller holds mu.
func (a *Archive) say(name, what, why string) {
	line := name + ": " + what
	if why != "" {
		line += ": " + strings.ReplaceAll(why, "\n", " ")
	}
	a.index = append(a.index, line)
}

// write writes a file. The caller holds mu.
func (a *Archive) write(name string, text []byte) {
	if a.err != nil {
		return
	}
	a.size += int64(len(text))
	a.err = a.tar.WriteHeader(&tar.Header{Name: a.root + "/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: a.now, Format: tar.FormatPAX})
	if a.err == nil {
		_, a.err = io.Copy(a.tar, bytes.NewReader(text))
	}
}

// Close ends the archive with its index, and returns how many things are missing in it. If
// writing failed, there is no file.
func (a *Archive) Close(about string) (missing int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.Sort(a.index)
	for _, line := range a.index {
		if strings.Contains(line, ": MISSING") {
			missing++
		}
	}
	a.write(Index, []byte(about+"\n"+strings.Join(a.index, "\n")+"\n"))
	err = errors.Join(a.err, a.tar.Close(), a.zip.Close(), a.file.Sync(), a.file.Close())
	if err != nil {
		return missing, errors.Join(fmt.Errorf("write %s: %w", a.path, errors.Join(a.err, err)), os.Remove(a.path))
	}
	return missing, nil
}
