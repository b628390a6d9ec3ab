// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// alive is the name of the file that a pid 1 holds locked for as long as it lives: the
// supervisor in the cluster's directory, a node in its own. The kernel unlocks it at
// any death, and translates the holder's pid for whoever asks: a file with a number in
// it could do neither.
const alive = "alive"

// holdAlive locks path until this process ends. It must not open the file again:
// closing any descriptor of it would release the lock.
func holdAlive(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return nil
}

// holder returns the pid of the process that holds path, or 0.
func holder(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("who holds %s: %w", path, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	if lock.Pid <= 0 { // and kill(2) would take that for many processes
		return 0, fmt.Errorf("%s is held by a process that cannot be seen from here", path)
	}
	return int(lock.Pid), nil
}

// NodePID returns the pid of a node's first process, whose namespaces are the node's,
// or an error if the node does not run.
func NodePID(cluster, node string) (int, error) {
	pid, err := holder(Config{Name: cluster}.nodeDir(node, alive))
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s of cluster %s does not run", node, cluster)
	}
	return pid, err
}

// share shares the lock, as flock(2), of a directory until this process ends, so that
// nobody removes it meanwhile.
func share(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_SH)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	return nil
}

// errBusy is that another command is at work on the same cluster.
var errBusy = errors.New("another command is at work on this cluster")

// lockDir makes the directory and keeps other commands from it until what it returns
// is closed.
func lockDir(dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Down removed it meanwhile
		} else if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errBusy
			}
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if sameDir(f, dir) {
			return f, nil
		}
		f.Close()
	}
}

// sameDir reports whether the open directory still has its name: its last owner may
// have removed it between our open and our lock.
func sameDir(f *os.File, dir string) bool {
	opened, err1 := f.Stat()
	named, err2 := os.Stat(dir)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}
