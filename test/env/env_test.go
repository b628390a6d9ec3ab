// SPDX-License-Identifier: Apache-2.0

package env

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(CheckLeaks(m)) }

// fakeT records how Need ended a test. Skipf and Fatalf must not return.
type fakeT struct {
	testing.TB
	skipped, failed string
}

func (*fakeT) Helper()                          {}
func (f *fakeT) Skipf(format string, a ...any)  { f.skipped = fmt.Sprintf(format, a...); panic(f) }
func (f *fakeT) Fatalf(format string, a ...any) { f.failed = fmt.Sprintf(format, a...); panic(f) }
func (f *fakeT) Fatal(a ...any)                 { f.failed = fmt.Sprint(a...); panic(f) }

func need(features ...Feature) (f *fakeT) {
	f = &fakeT{}
	defer func() { _ = recover() }()
	Need(f, features...)
	return f
}

func TestNeedSkipsNamingProbeAndErrnoAndFailsWhenRequired(t *testing.T) {
	probe := probes[BPF]
	t.Cleanup(func() { probes[BPF] = probe })
	probes[BPF] = func() error { return errors.Join(errors.New("bpf(BPF_PROG_LOAD)"), unix.EPERM) }

	t.Setenv("MESH_REQUIRE", "")
	if got := need(BPF); !strings.Contains(got.skipped, "needs bpf: bpf(BPF_PROG_LOAD)") || !strings.Contains(got.skipped, "EPERM") {
		t.Errorf("not required: skipped %q, failed %q", got.skipped, got.failed)
	}
	t.Setenv("MESH_REQUIRE", "netns, bpf")
	if got := need(BPF); !strings.Contains(got.failed, "EPERM") {
		t.Errorf("required: skipped %q, failed %q", got.skipped, got.failed)
	}
	t.Setenv("MESH_REQUIRE", "nets")
	if got := need(BPF); !strings.Contains(got.failed, `no such feature "nets"`) {
		t.Errorf("misspelt: skipped %q, failed %q", got.skipped, got.failed)
	}
}

func TestNetnsHasLoopbackOfItsOwnAndTheThreadComesBack(t *testing.T) {
	Need(t, Netns)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	err = InNetns(NewNetns(t), func() error {
		inside, err := os.Readlink("/proc/thread-self/ns/net")
		if err == nil && inside == home {
			t.Error("the new netns is our own")
		}
		if err != nil {
			return err
		}
		ln, err = net.Listen("tcp", "[::1]:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("the listener inside is reachable from outside")
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != home {
		t.Errorf("process is in %s, was in %s", after, home)
	}
}

func TestCgroupIsRemovedWithTheProcessesAndChildrenLeftInIt(t *testing.T) {
	Need(t, Cgroup2)
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })

	var dir string
	t.Run("user", func(t *testing.T) {
		dir = NewCgroup(t)
		child := filepath.Join(dir, "child")
		if err := os.Mkdir(child, 0o755); err != nil {
			t.Fatal(err)
		}
		pid := strconv.Itoa(sleep.Process.Pid)
		if err := os.WriteFile(filepath.Join(child, "cgroup.procs"), []byte(pid), 0); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("cgroup %s is still there: %v", dir, err)
	}
}

func TestBPFFSIsABPFFilesystem(t *testing.T) {
	Need(t, BPF)
	var st unix.Statfs_t
	if err := unix.Statfs(BPFFS(t), &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		t.Errorf("file system type %#x", st.Type)
	}
}

func TestLeaksAreSeen(t *testing.T) {
	before, files := goroutines(), openFiles()
	stop := make(chan struct{})
	go func() { <-stop }()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if got := added(before, goroutines()); len(got) != 1 || !strings.Contains(got[0], "TestLeaksAreSeen") {
		t.Errorf("goroutines added: %q", got)
	}
	if got := added(files, openFiles()); len(got) != 1 || !strings.Contains(got[0], os.DevNull) {
		t.Errorf("files added: %q", got)
	}
	close(stop)
	f.Close()
}

func TestAnAddressIsNobodyElsesBeforeTheTestEnds(t *testing.T) {
	given := map[string]bool{}
	for range 100 {
		address := Address(t)
		if given[address] {
			t.Fatalf("%s was given twice", address)
		}
		given[address] = true
		if held, err := net.ListenPacket("udp4", address); err == nil {
			held.Close()
			t.Fatalf("%s is not held", address)
		}
	}
}
