// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// temporary opens the name of each file that is still being written. Container
// runtimes take no such file for a config, and an installer removes those that
// one before it left, when it was killed.
const temporary = ".culvert-cni-"

// errChanged says that somebody else wrote the file meanwhile. Theirs is kept.
var errChanged = errors.New("another program has just written it")

// access is whose a file is and who may do what with it.
type access struct {
	mode     fs.FileMode
	uid, gid int // -1: the installer's own
}

func accessOf(path string) (access, error) {
	st, err := os.Stat(path)
	if err != nil {
		return access{}, err
	}
	a := access{st.Mode().Perm(), -1, -1}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok {
		a.uid, a.gid = int(owner.Uid), int(owner.Gid)
	}
	return a, nil
}

// write puts data into a new temporary file of dir, and on the disk, and returns
// its path.
func write(dir string, data io.Reader, a access) (path string, err error) {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, data); err != nil {
		return "", err
	}
	// Without CAP_CHOWN it is the installer's.
	if err := f.Chown(a.uid, a.gid); err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", err
	}
	if err := f.Chmod(a.mode); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// create puts a file of ours at path, over an older one of ours.
func create(path string, data io.Reader, a access) error {
	tmp, err := write(filepath.Dir(path), data, a)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// replace puts data in the place of path, a file of others that held read when it
// was read. If it holds something else by now, it stays, and the error is
// errChanged. A link stays a link: what it leads to is replaced.
func replace(path string, read, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	a, err := accessOf(path)
	if err != nil {
		return err
	}
	tmp, err := write(filepath.Dir(path), bytes.NewReader(data), a)
	if err != nil {
		return err
	}
	if err := swap(tmp, path, read, data); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return errors.Join(os.Remove(tmp), syncDir(filepath.Dir(path)))
}

// swap exchanges tmp, which holds data, and path, and looks at what it took out.
// To compare first and rename then would lose what somebody writes in between.
// If it took out something other than read, that goes back, and so on should a
// third version have come by then: what ends in tmp is known to be out of date.
func swap(tmp, path string, read, data []byte) error {
	for put, want, tries := data, read, 0; ; tries++ {
		switch err := exchange(tmp, path, want); {
		case errors.Is(err, fs.ErrNotExist):
			return errChanged // it was removed
		case err != nil:
			return err
		}
		out, err := os.ReadFile(tmp)
		if err != nil {
			return err
		}
		if bytes.Equal(out, want) {
			if tries > 0 {
				return errChanged
			}
			return nil
		}
		put, want = out, put
	}
}

// exchange swaps two files. Where the file system cannot (NFS, vfat), it
// renames, after a look at what will be gone.
func exchange(tmp, path string, want []byte) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return compareAndRename(tmp, path, want)
}

// compareAndRename leaves in tmp what it took out of path, as exchange does. What
// somebody writes between the look and the rename, some microseconds, is lost.
func compareAndRename(tmp, path string, want []byte) error {
	now, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, want) {
		return errChanged
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return os.WriteFile(tmp, now, 0o600)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// tidy removes what a killed installer left half written.
func tidy(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) && e.Type().IsRegular() {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

var errInUse = errors.New("in use by another culvert-cni install on this node")

// lock makes its holder the only installer of dir, until the file is closed or
// the process ends.
func lock(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return d, nil
	}
	d.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errInUse
	}
	return nil, fmt.Errorf("%s: %w", dir, err)
}

// cause is err without the names of temporary files.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
