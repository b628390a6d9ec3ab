// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// binary is the plugin's program: the file that is given, and its place.
type binary struct {
	from, to string
	seen     fs.FileInfo // the file at to, when it was last compared and right
}

// place puts the program in its place if it is not there as it should be. One
// rename replaces the old one: a runtime that starts it meanwhile gets either.
func (b *binary) place() (placed bool, err error) {
	right, err := b.isRight()
	if err != nil || right {
		return false, err
	}
	if err := b.copy(); err != nil {
		return false, fmt.Errorf("write %s: %w", b.to, cause(err))
	}
	return true, nil
}

// isRight compares both files, and the mode. A link is not right: it may lead to
// another place in the installer's file system than in the runtime's.
func (b *binary) isRight() (bool, error) {
	// Before its contents, so that a change in between shows at the next look.
	now, err := os.Lstat(b.to)
	if err != nil || !now.Mode().IsRegular() || now.Mode().Perm() != 0o755 {
		return false, nil
	}
	if b.seen != nil && sameFile(now, b.seen) {
		return true, nil
	}
	want, err := sum(b.from)
	if err != nil {
		return false, fmt.Errorf("read the plugin: %w", err)
	}
	got, err := sum(b.to)
	if err != nil || !bytes.Equal(got, want) {
		return false, nil
	}
	b.seen = now
	return true, nil
}

func (b *binary) copy() error {
	from, err := os.Open(b.from)
	if err != nil {
		return err
	}
	defer from.Close()
	return create(b.to, from, access{0o755, -1, -1})
}

// remove takes the program away, and reports whether it was there.
func (b *binary) remove() (bool, error) {
	err := os.Remove(b.to)
	if os.IsNotExist(err) {
		return false, nil
	}
	return true, errors.Join(err, syncDir(filepath.Dir(b.to)))
}

func sum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

// sameFile reports whether nobody wrote, replaced or changed the file.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && changedAt(a) == changedAt(b)
}

// changedAt is the inode's ctime, which no program can set back.
func changedAt(st fs.FileInfo) syscall.Timespec { return st.Sys().(*syscall.Stat_t).Ctim }
