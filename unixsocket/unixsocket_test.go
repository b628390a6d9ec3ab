// SPDX-License-Identifier: Apache-2.0

package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// greeting listens in a directory of the test's and says hello to all that it
// accepts. It returns the path.
func greeting(t *testing.T, path string) *Listener {
	t.Helper()
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("hello"))
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln
}

// greeted is what a client reads.
func greeted(path string) (string, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	text := make([]byte, 10)
	n, _ := conn.Read(text)
	return string(text[:n]), nil
}

func TestOtherUsersAreHungUpOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "a.sock")
	greeting(t, path)
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // someone opened the directory
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got, err := greeted(path); got != "hello" {
		t.Errorf("we got %q, %v", got, err)
	}
	err := asNobody(func() error {
		if got, err := greeted(path); err != nil || got != "" {
			return fmt.Errorf("nobody got %q, %v", got, err)
		}
		return nil
	})
	if errors.Is(err, unix.EPERM) {
		env.Need(t, env.Netns) // names the missing privilege, or fails where it is required
	}
	if err != nil {
		t.Error(err)
	}
}

// asNobody runs f on a thread with another uid; the thread ends with it.
func asNobody(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65533, 65533, 65533); errno != 0 {
			runtime.UnlockOSThread()
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

func TestADirectoryThatOthersEnterIsRefused(t *testing.T) {
	for what, make := range map[string]func(dir string) error{
		"has mode 0750, want 0700: chmod": func(dir string) error { return os.Mkdir(dir, 0o750) },
		"is not a directory":              func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"belongs to uid 65533, want root": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 65533, 65533))
		},
	} {
		dir := filepath.Join(t.TempDir(), "state")
		if err := make(dir); errors.Is(err, unix.EPERM) {
			env.Need(t, env.Netns)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		ln, err := Listen(filepath.Join(dir, "a.sock"))
		if err == nil {
			ln.Close()
		}
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
}

func TestAYoungerProcessTakesThePathOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "a.sock")
	older := greeting(t, path)
	greeting(t, path)
	older.Close()
	if got, err := greeted(path); got != "hello" {
		t.Errorf("the younger one says %q, %v", got, err)
	}
	for file, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if stat, err := os.Stat(file); err != nil || stat.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %#o", file, stat, err, want)
		}
	}
	if _, err := os.Lstat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name before is left behind: %v", err)
	}
}
