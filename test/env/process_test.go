// SPDX-License-Identifier: Apache-2.0

package env

import (
	"os/exec"
	"runtime"
	"testing"
)

// A goroutine that ends with its thread locked ends the thread.
func TestAProcessOutlivesTheThreadThatAskedForIt(t *testing.T) {
	cmd := exec.Command("sleep", "0.2")
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- Start(cmd)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
