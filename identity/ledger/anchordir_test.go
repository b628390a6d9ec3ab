// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReplicasPutAnchorsSideBySideInADirectory(t *testing.T) {
	t.Parallel()
	r, path := newRig(t), t.TempDir()
	for _, replica := range []string{"ca-1", "ca-2"} {
		l := r.open(replica)
		l.opts.Anchors = NewAnchorDir(path)
		l.useAnchors()
		r.run(l)()
		if a := l.Anchored(); a.State != AnchorHeld || a.Problem != "" {
			t.Errorf("%+v", a)
		}
	}
	d := NewAnchorDir(path)
	all, err := d.All(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%q, %v", all, err)
	}
	for name, text := range all {
		if _, ok := parseAnchor(name, text); !ok {
			t.Errorf("%s: %s", name, text)
		}
		if err := d.Put(t.Context(), map[string][]byte{name: nil, "gone": nil}); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := NewAnchorDir(filepath.Join(path, "none")).All(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// A mount of another host may hang: nobody waits for it, it is asked once, and what is no file
// is not opened.
func TestAnAnchorDirectoryThatHangsKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	d, hangs := NewAnchorDir(t.TempDir()), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := d.within(ctx, func() error { <-hangs; return nil }); !errors.Is(err, errMountHangs) {
		t.Errorf("%v", err)
	}
	if _, err := d.All(t.Context()); !errors.Is(err, errMountHangs) {
		t.Errorf("asked again: %v", err)
	}
	close(hangs)
	eventually(t, "it is asked again", func() bool { _, err := d.All(t.Context()); return err == nil })
	if err := unix.Mkfifo(filepath.Join(d.path, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	timed, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	if all, err := d.All(timed); err != nil || len(all) > 0 {
		t.Error(fmt.Sprint(all), err)
	}
}
