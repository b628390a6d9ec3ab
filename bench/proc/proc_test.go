// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestOwnUseIsRead(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; {
		if now, _ := CPU(os.Getpid()); now-before >= 2*tick {
			break
		}
		if time.Now().After(end) {
			t.Fatal("this process has used no CPU")
		}
	}
	if size, err := RSS(os.Getpid()); err != nil || size < 1<<20 {
		t.Errorf("RSS is %d, %v", size, err)
	}
	if _, err := CPU(1 << 30); err == nil {
		t.Error("a process that is not there has used CPU")
	}
}

func TestChildrenAreOfTheFamily(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if all := Family(os.Getpid()); !slices.Contains(all, cmd.Process.Pid) {
		t.Errorf("%v lacks %d", all, cmd.Process.Pid)
	}
}

func TestListenersAreFound(t *testing.T) {
	for range 5 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		if !Listens(os.Getpid(), port) {
			t.Errorf("port %d is not found", port)
		}
		ln.Close()
		if !Listens(os.Getpid(), port) { // else another test of this host may have it now
			return
		}
	}
	t.Error("ports are still found on which nobody listens any more")
}
