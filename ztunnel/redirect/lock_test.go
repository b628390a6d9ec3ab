// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

// locking is the environment of a process that locks a directory, says so in
// one line, and keeps it until its standard input ends.
const locking = "CULVERT_TEST_LOCK"

func lockMain(dir string) int {
	if os.Getenv(locking+"_PROC") != "" {
		if err := errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("proc", "/proc", "proc", 0, ""),
		); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	lock, err := LockDir(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer lock.Close()
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// locker is a process that wants the lock.
type locker struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func startLocker(t *testing.T, dir string, change ...func(*exec.Cmd)) *locker {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), locking+"="+dir, "GORACE=atexit_sleep_ms=0")
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &locker{cmd, in, bufio.NewReader(out)}
}

// says is the process's one line.
func (l *locker) says(t *testing.T) string {
	t.Helper()
	line, err := l.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (l *locker) process() string { return fmt.Sprintf("process %d (", l.Process.Pid) }

// lockable are the two kinds of directory that a ztunnel locks.
func lockable(t *testing.T) map[string]string {
	t.Helper()
	env.Need(t, env.BPF)
	return map[string]string{
		"state directory": filepath.Join(t.TempDir(), "state"),
		"bpffs":           filepath.Join(env.BPFFS(t), "culvert"),
	}
}

func TestSecondProcessIsRefusedAndToldWhoHoldsTheLock(t *testing.T) {
	for name, dir := range lockable(t) {
		t.Run(name, func(t *testing.T) {
			first := startLocker(t, dir)
			if got := first.says(t); got != "locked" {
				t.Fatal(got)
			}
			if got := startLocker(t, dir).says(t); !strings.Contains(got, dir+" is in use") || !strings.Contains(got, first.process()) {
				t.Errorf("the second says %q, want the directory and %q", got, first.process())
			}
			if _, err := LockDir(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), first.process()) {
				t.Errorf("the third: %v", err)
			}
			if err := first.Process.Kill(); err != nil { // kill -9: nobody cleans up
				t.Fatal(err)
			}
			_ = first.Wait()
			if got := startLocker(t, dir).says(t); got != "locked" {
				t.Errorf("after kill -9: %q", got)
			}
		})
	}
}

func TestOfProcessesThatRaceForALockOneGetsIt(t *testing.T) {
	for name, dir := range lockable(t) {
		t.Run(name, func(t *testing.T) {
			var racers []*locker
			for range 6 {
				racers = append(racers, startLocker(t, dir))
			}
			var winner *locker
			var refused []string
			for _, r := range racers {
				if got := r.says(t); got != "locked" {
					refused = append(refused, got)
				} else if winner != nil {
					t.Fatalf("processes %d and %d both have it", winner.Process.Pid, r.Process.Pid)
				} else {
					winner = r
				}
			}
			if winner == nil {
				t.Fatalf("nobody has it: %q", refused)
			}
			for _, got := range refused {
				if !strings.Contains(got, winner.process()) {
					t.Errorf("%q, want %q", got, winner.process())
				}
			}
		})
	}
}

func TestHolderInAnotherPIDNamespaceIsSaidToBeUnknown(t *testing.T) {
	for name, dir := range lockable(t) {
		t.Run(name, func(t *testing.T) {
			lock, err := LockDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			inside := startLocker(t, dir, func(cmd *exec.Cmd) {
				cmd.Env = append(cmd.Env, locking+"_PROC=1")
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
			})
			if got := inside.says(t); !strings.Contains(got, "is in use") || !strings.Contains(got, "another PID namespace") {
				t.Errorf("it says %q", got)
			}
		})
	}
}

func TestLockFollowsADirectoryThatWasReplaced(t *testing.T) {
	for name, dir := range lockable(t) {
		t.Run(name, func(t *testing.T) {
			lock, err := LockDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			if err := lock.Keep(func(string) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
				t.Errorf("the new directory is free: %v", err)
			}
			// Its twin: another process was faster.
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			other := startLocker(t, dir)
			if got := other.says(t); got != "locked" {
				t.Fatal(got)
			}
			if err := lock.Keep(func(string) error { return nil }); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), other.process()) {
				t.Errorf("Keep: %v", err)
			}
		})
	}
}

// What a second ztunnel would change first is what pods may reach without it.
// Another process may have the name, and its lock, between any two steps of ours.
func TestWhatIsWrittenByHeldLandsInNoDirectoryOfAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	l, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	held := l.Held()
	write := func(name string) error { return os.WriteFile(filepath.Join(held, name), nil, 0o600) }
	wantIn := func(dir string, want ...string) {
		t.Helper()
		var got []string
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("in %s: %q, %v; want %q", dir, got, err, want)
		}
	}
	if err := write("begun"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".former"); err != nil {
		t.Fatal(err)
	}
	other, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := os.Rename(filepath.Join(held, "begun"), filepath.Join(held, "ended")); err != nil {
		t.Error(err)
	}
	if err := l.Keep(func(string) error { return nil }); !errors.Is(err, ErrLocked) {
		t.Errorf("Keep: %v", err)
	}
	if err := write("more"); err != nil {
		t.Error(err)
	}
	wantIn(dir)
	wantIn(dir+".former", "ended", "more")

	other.Close() // it ended: the name is ours again, by the same path
	if err := l.Keep(func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := write("again"); err != nil {
		t.Error(err)
	}
	wantIn(dir, "again")
	if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("the next directory is not locked: %v", err)
	}
	former, err := LockDir(dir + ".former")
	if err != nil {
		t.Fatalf("the former directory is locked still: %v", err)
	}
	former.Close()
}

func TestSecondDatapathChangesNothing(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	node, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, node, "node")
	second := w.opts
	second.ExcludeCIDRs = []netip.Prefix{netip.PrefixFrom(node4, 32)}
	if d, err := Load(second); !errors.Is(err, ErrLocked) {
		d.Close()
		t.Fatalf("a second datapath: %v", err)
	}
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
		t.Errorf("it left %q, %v", repaired, err)
	}
	// Its twin: alone, it may.
	w.d.Close()
	w.d = load(t, second)
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "node")
}
