// SPDX-License-Identifier: Apache-2.0

package env

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// CheckLeaks runs the tests and returns the code to exit with: 1 if goroutines
// or file descriptors that were not there before are still there two seconds
// after tests that all passed. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }
//
// What is not a *testing.M, but runs as one, may be checked too.
func CheckLeaks(m interface{ Run() int }) int {
	before, files := goroutines(), openFiles()
	code := m.Run()
	if code != 0 {
		return code
	}
	leaks := settle(func() []string {
		return append(added(before, goroutines()), added(files, openFiles())...)
	})
	for _, leak := range leaks {
		fmt.Fprintf(os.Stderr, "leaked: %s\n\n", leak)
	}
	return min(len(leaks), 1)
}

// settle waits for what is on its way out.
func settle(leaks func() []string) []string {
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		found := leaks()
		if len(found) == 0 {
			return nil
		}
		select {
		case <-deadline:
			return found
		case <-again.C:
		}
	}
}

func added(before, after map[string]string) []string {
	var found []string
	for key, what := range after {
		if _, ok := before[key]; !ok {
			found = append(found, what)
		}
	}
	return found
}

// goroutines returns the stacks of all goroutines by their number, which Go
// never reuses. Those of package signal and of the race detector live forever.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	found := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		number, _, _ := strings.Cut(stack, " [")
		if !strings.Contains(stack, "os/signal.") {
			found[number] = stack
		}
	}
	return found
}

// openFiles returns what each descriptor points to. The netpoller's own two
// are opened with the first socket and stay.
func openFiles() map[string]string {
	found := make(map[string]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		key := entry.Name() + " " + target
		found[key] = "descriptor " + key
	}
	return found
}
