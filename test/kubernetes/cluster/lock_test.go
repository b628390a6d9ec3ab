// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the process that holds a lock, or asks for its holder, in a test.
func TestMain(m *testing.M) {
	if path := os.Getenv("TEST_HOLD"); path != "" {
		if err := holdAlive(path); err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString("held\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test is done
		return
	}
	if path := os.Getenv("TEST_ASK"); path != "" {
		fmt.Println(holder(path))
		return
	}
	os.Exit(m.Run())
}

func TestALockNamesItsHolderUntilItDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), alive)
	if pid, err := holder(path); pid != 0 || err != nil {
		t.Errorf("without the file: %d, %v", pid, err)
	}
	other := exec.Command("/proc/self/exe")
	other.Env = append(os.Environ(), "TEST_HOLD="+path)
	_, err1 := other.StdinPipe()
	said, err2 := other.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if pid, err := holder(path); pid != other.Process.Pid || err != nil {
		t.Errorf("held by process %d, found %d, %v", other.Process.Pid, pid, err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	if pid, err := holder(path); pid != 0 || err != nil {
		t.Errorf("when it is dead: %d, %v", pid, err)
	}
}

// A number that is not a process's would have kill(2) end many.
func TestAHolderThatCannotBeSeenIsAnErrorAndNoNumber(t *testing.T) {
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("MESH_REQUIRE") != "":
		t.Fatal("MESH_REQUIRE is set, and this is not root")
	default:
		t.Skip("needs root, for a pid namespace")
	}
	path := filepath.Join(t.TempDir(), alive)
	if err := holdAlive(path); err != nil {
		t.Fatal(err)
	}
	asker := exec.Command("/proc/self/exe")
	asker.Env = append(os.Environ(), "TEST_ASK="+path)
	asker.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID} // in it we have no number
	out, err := asker.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "cannot be seen") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestTwoCommandsAreNotAtWorkOnOneClusterAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err != errBusy {
		t.Errorf("the second: %v, want %v", err, errBusy)
	}
	first.Close()
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("when the first is done: %v", err)
	}
	again.Close()
}

func TestTheOptionsOfAHierarchyMountItAgain(t *testing.T) {
	for shown, want := range map[string]string{
		"rw,cpu,cpuacct":        "cpu,cpuacct",
		"rw,xattr,name=systemd": "none,name=systemd",
		"rw,memory":             "memory",
		"rw,cpuset,noprefix":    "cpuset,noprefix",
	} {
		if got := v1Options(shown); got != want {
			t.Errorf("%q: got %q, want %q", shown, got, want)
		}
	}
}
