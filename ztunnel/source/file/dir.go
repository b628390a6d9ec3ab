// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// What we are willing to read: far above any real cluster's objects, and
// below what would exhaust the node.
const (
	maxFileBytes  = 16 << 20
	maxTotalBytes = 256 << 20
	maxFiles      = 20000
)

var (
	// errChanging: somebody is writing; what was read may be half of something.
	errChanging = errors.New("is being written")
	// errEmpty: most likely somebody is about to write. Must not look as if all
	// objects of the file were deleted.
	errEmpty = errors.New("empty; delete the file to delete its objects")
)

// listed is one file as a listing shows it.
type listed struct {
	name string
	info fs.FileInfo // of the file itself, behind any symbolic links
	err  error       // instead of info
}

// list returns the files of dir that count, sorted by name. Links are
// followed: a mounted ConfigMap consists of nothing else.
func list(dir string) ([]listed, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var files []listed
	for _, e := range entries {
		if !counts(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err == nil && info.IsDir() {
			continue
		}
		files = append(files, listed{e.Name(), info, err})
	}
	return files, tooMuch(files)
}

// counts reports whether a file's name says that it holds objects. Hidden
// files belong to editors, and "..data" to the kubelet.
func counts(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func tooMuch(files []listed) error {
	if len(files) > maxFiles {
		return fmt.Errorf("%d files, more than %d", len(files), maxFiles)
	}
	var total int64
	for _, f := range files {
		if f.info != nil {
			total += f.info.Size()
		}
	}
	if total > maxTotalBytes {
		return fmt.Errorf("%d bytes in all files, more than %d", total, maxTotalBytes)
	}
	return nil
}

// same reports whether two listings show the same files with the same size and
// time, which is all that can be seen without reading.
func same(a, b []listed) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].name != b[i].name || (a[i].err == nil) != (b[i].err == nil) {
			return false
		}
		if a[i].err == nil && !sameFile(a[i].info, b[i].info) {
			return false
		}
	}
	return true
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

// rested reports whether nothing in dir was written since: no file, and no name.
func rested(dir string, files []listed, since time.Time) bool {
	info, err := os.Stat(dir)
	if err != nil || info.ModTime().After(since) {
		return false
	}
	return !slices.ContainsFunc(files, func(f listed) bool { return f.err != nil || f.info.ModTime().After(since) })
}

// read returns a file's bytes, or errChanging or errEmpty if there is a writer.
func read(path string) ([]byte, error) {
	// Not blocking, so that a fifo is found to be one and not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if before.Size() > maxFileBytes {
		return nil, fmt.Errorf("%d bytes, more than %d", before.Size(), maxFileBytes)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !sameFile(before, after) || int64(len(data)) != after.Size() {
		return nil, errChanging
	}
	if len(data) == 0 {
		return nil, errEmpty
	}
	return data, nil
}

// pathless strips what the name in front of the message says already.
func pathless(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
