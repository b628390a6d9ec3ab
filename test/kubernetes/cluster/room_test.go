// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The limit is that of a user namespace: the machine's own has other clusters.
func TestAClusterIsRefusedWhereTheKernelHasNoRoomForItsWatches(t *testing.T) {
	if os.Getenv("FEW_WATCHES") != "" {
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
		if err := roomForWatches(); err == nil || !strings.Contains(err.Error(), "fs.inotify.max_user_instances") {
			t.Fatalf("with room for five: %v", err)
		}
		return
	}
	inside := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	inside.Env = append(os.Environ(), "FEW_WATCHES=1")
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
	}
	if out, err := inside.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
