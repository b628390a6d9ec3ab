// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// starve takes every file descriptor that this process may have, and returns
// a function that gives n of them back.
func starve(t *testing.T) (release func(n int)) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := syscall.Rlimit{Cur: 128, Max: old.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	release = func(n int) {
		for ; n > 0 && len(taken) > 0; n-- {
			taken[len(taken)-1].Close()
			taken = taken[:len(taken)-1]
		}
	}
	t.Cleanup(func() {
		release(len(taken))
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return release
		}
		taken = append(taken, f)
	}
}

// spareHeld reports whether some acceptor of this process has its spare.
func spareHeld() bool {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		to, err := os.Readlink(dir + e.Name())
		return err == nil && to == os.DevNull && !slices.Contains([]string{"0", "1", "2"}, e.Name())
	})
}

func TestOutOfDescriptorsNewConnectionsAreRefusedAndOpenOnesUnharmed(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	old := connect(t, legacyAddr, to)
	send(t, old, "hello")
	expect(t, old, "hello")

	eventually(t, "a descriptor is held back", spareHeld)
	release := starve(t)
	release(1) // for the client's own socket
	expectRefused(t, webAddr, to)
	record := b.record(Limit)
	has(t, record, map[string]any{"level": "WARN", "direction": "inbound", "dst.workload": "db-0"})
	if src, _ := record["src.addr"].(string); !strings.HasPrefix(src, webAddr.String()+":") {
		t.Errorf("src.addr %q", src)
	}

	send(t, old, "still here")
	expect(t, old, "still here")
	release(100)
	again := connect(t, legacyAddr, to)
	send(t, again, "hello")
	expect(t, again, "hello")
}

func TestAppsLeaveDescriptorsForTunnels(t *testing.T) {
	_, to, _ := dbBench(t, toEcho(t))
	old := connect(t, legacyAddr, to)
	send(t, old, "hello")
	expect(t, old, "hello")

	release := starve(t)
	const left = 128 / reserveShare
	release(left)
	expectRefused(t, webAddr, to)
	if !scarce() {
		t.Error("none are scarce")
	}
	release(left) // for the client's own, ours, the app's, and what lies between
	again := connect(t, legacyAddr, to)
	send(t, again, "hello")
	expect(t, again, "hello")
}
