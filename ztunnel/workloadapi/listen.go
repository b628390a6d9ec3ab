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

// Listen opens the socket at path, to which every process may connect that sees it. Its
// directory, which is made if it is missing, is what pods mount: only root may write to it.
// A socket that another process left is replaced in one step.
func Listen(path string) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	switch err := unix.Lstat(dir, &st); {
	case err != nil:
		return nil, fmt.Errorf("stat %s: %v", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, fmt.Errorf("%s is not a directory", dir)
	case st.Uid != uint32(os.Geteuid()) && st.Uid != 0 || st.Mode&0o022 != 0:
		return nil, fmt.Errorf("%s may be written by others: a socket of theirs would pass for ours", dir)
	}
	fresh := path + ".new"
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
