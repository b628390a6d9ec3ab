// SPDX-License-Identifier: Apache-2.0

package workloadapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// made is what Listen appends to the name of a socket until it is in its place.
const made = ".new"

// Check says why there can be no socket at path. Listen would fail too, but late: when the
// node's pods are steered already.
func Check(path string) error {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1 - len(made)
	if len(path) > most {
		return fmt.Errorf("%s is longer than the %d bytes that the path of this socket may have", path, most)
	}
	err := checkDir(filepath.Dir(path))
	if err == nil {
		err = alone(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Listen makes it
	}
	return err
}

// checkDir refuses a directory where another user can replace the socket.
func checkDir(dir string) error {
	var st unix.Stat_t
	switch err := unix.Lstat(dir, &st); {
	case err != nil:
		return fmt.Errorf("stat %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case st.Uid != uint32(os.Geteuid()) && st.Uid != 0 || st.Mode&0o022 != 0:
		return fmt.Errorf("%s may be written by others: a socket of theirs would pass for ours", dir)
	}
	return nil
}

// alone refuses a directory that holds anything but our sockets: pods would get it, too.
func alone(path string) error {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		switch {
		case name != filepath.Clean(path) && name != filepath.Clean(path)+made:
			return fmt.Errorf("%s holds %s, too: the socket's directory is for pods to mount, and for nothing else", dir, entry.Name())
		case entry.Type() != fs.ModeSocket:
			return fmt.Errorf("%s is not a socket", name)
		}
	}
	return nil
}

// Listen opens the socket at path, to which every process may connect that sees it. Its
// directory, which is made if it is missing, is what pods mount: only root may write to it.
// A socket that another process left is replaced in one step.
func Listen(path string) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	fresh := path + made
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // by then the name is another's
	if err := errors.Join(os.Chmod(fresh, 0o666), os.Rename(fresh, path)); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
