// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Whatever happens to the file, nothing that is denied is forgotten by that.
func TestAFileIsFollowedAndItsLastGoodSetKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deny.yaml")
	log := &env.Log{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	s := NewSet()
	if err := s.ReadFile(path, logger); err == nil || s.Unknown() == nil {
		t.Fatalf("no file: %v, %v", err, s.Unknown())
	}
	put(t, path, "- node: node-7\n")
	if err := s.ReadFile(path, logger); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.FollowFile(ctx, path, logger) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	denied := func(node string) bool { _, is := s.Match(Subject{Node: node}, time.Now()); return is }

	put(t, path, "- node: node-7\n- node: node-8\n")
	await(t, "node-8 is denied", func() bool { return denied("node-8") })

	for _, step := range []struct {
		name, trouble string
		do            func() error
	}{
		{"half a file", "not a list", func() error { return os.WriteFile(path, []byte("- node: node-7\n- no"), 0o600) }},
		{"an empty file", "empty: a set that denies nothing is []", func() error { return os.WriteFile(path, nil, 0o600) }},
		{"no file", "no such file", func() error { return os.Remove(path) }},
		{"a pipe", "is not a regular file", func() error { return syscall.Mkfifo(path, 0o600) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		await(t, step.name+" is said", func() bool {
			return strings.Contains(s.Trouble(), step.trouble) && strings.Contains(log.String(), step.trouble)
		})
		if !denied("node-7") || !denied("node-8") {
			t.Errorf("%s: nobody is denied any more", step.name)
		}
	}
	if n := strings.Count(log.String(), "is not a regular file"); n != 1 {
		t.Errorf("one trouble was said %d times", n)
	}
	put(t, path, "[]\n")
	await(t, "node-7 is denied no more", func() bool { return !denied("node-7") })
	if s.Trouble() != "" || !strings.Contains(log.String(), `msg="denied no more" entry="node node-7"`) {
		t.Errorf("%q\n%s", s.Trouble(), log)
	}
}
