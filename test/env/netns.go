// SPDX-License-Identifier: Apache-2.0

package env

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// NewNetns returns the path of a new network namespace with lo up. It is
// unmounted, and so destroyed with its last socket, when the test ends, unless
// the test has done so.
func NewNetns(t testing.TB) string {
	t.Helper()
	Need(t, Netns)
	path := filepath.Join(t.TempDir(), "netns")
	if err := makeNetns(path); err != nil {
		t.Fatalf("make a netns: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount netns %s: %v", path, err)
		}
	})
	return path
}

// InNetns runs f on a thread inside the netns at path, and returns its error.
// Goroutines that f starts are outside.
func InNetns(path string, f func() error) error {
	to, err := os.Open(path)
	if err != nil {
		return err
	}
	defer to.Close()
	return onThread(func() error {
		if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns(%s): %w", path, err)
		}
		return f()
	})
}

func probeNetns() error {
	dir, err := os.MkdirTemp("", "culvert-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "netns")
	if err := makeNetns(path); err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount(netns): %w", err)
	}
	return nil
}

// makeNetns binds a new netns, lo up, to a new file at path.
func makeNetns(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w", err)
		}
		if err := forgetTheMachine(); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount of a netns: %w", err)
		}
		return nil
	})
}

// onThread runs f on a locked thread and puts the thread's netns back. The
// thread is not merely thrown away: were it the process's first one, Go would
// keep it, and /proc/self/ns/net would name the wrong netns from then on.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread() // else the thread dies with this goroutine
		} else if err == nil {
			err = fmt.Errorf("setns(home): %w", back)
		}
		done <- err
	}()
	return <-done
}

// forgetTheMachine sets the sysctls that a new netns takes over from the machine's own
// (net.core.devconf_inherit_init_net) to what the kernel begins with: a test does not depend
// on whether the machine forwards. Where sysctls are read-only, they stay.
func forgetTheMachine() error {
	for _, name := range []string{"ip_forward", "conf/all/rp_filter", "conf/default/rp_filter", "conf/lo/rp_filter"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte("0"), 0); err != nil && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("sysctl of a netns: %w", err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket(AF_INET): %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("ioctl(SIOCSIFFLAGS, lo): %w", err)
	}
	return nil
}
