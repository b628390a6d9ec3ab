// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Down removes the cluster of that name, whether it runs, is starting, or has been
// killed. It reports whether there was one.
func Down(ctx context.Context, name string) (bool, error) {
	c := Config{Name: name, Cgroups: "v1"} // which of them does not matter here
	if err := c.validate(); err != nil {
		return false, err
	}
	if _, err := os.Stat(c.dir()); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// An Up that is under way holds the directory until its supervisor is dead.
	var lock *os.File
	err := until(ctx, func() error {
		err := c.kill()
		if err == nil && lock == nil {
			lock, err = lockDir(c.dir())
		}
		return err
	})
	if lock != nil {
		defer lock.Close()
	}
	if err != nil {
		return true, err
	}
	// A supervisor lets go of its lock before the last of its processes is dead.
	err = until(ctx, func() error { return errors.Join(c.removeCgroups(), os.RemoveAll(c.dir())) })
	if err != nil {
		return true, err
	}
	_ = os.Remove(parent) // fails if there are other clusters
	return true, nil
}

// kill kills the supervisor, and with it, by the kernel's hand, all processes of the
// cluster. It returns when they are gone.
func (c Config) kill() error {
	pid, err := holder(filepath.Join(c.dir(), alive))
	if err != nil || pid == 0 {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the supervisor: %w", err)
	}
	// It has ended once all of its pid namespace has.
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, int((10 * time.Second).Milliseconds())); n == 0 || err != nil {
		return fmt.Errorf("the supervisor, process %d, has not ended: %v", pid, err)
	}
	return nil
}
