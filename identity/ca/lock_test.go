// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// held locks a directory as another process does.
func held(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	unlock, err := (Directory{Path: dir}).lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func TestALockedDirectoryIsWaitedForAndItsHolderIsNamed(t *testing.T) {
	dir := newDir(t)
	synctest.Test(t, func(t *testing.T) {
		unlock := held(t, dir)
		var log bytes.Buffer
		d := Directory{Path: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}
		time.AfterFunc(3*time.Second, unlock)
		began := time.Now()
		if _, err := d.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited < 3*time.Second || waited > 4*time.Second {
			t.Errorf("it waited %v", waited)
		}
		if us := fmt.Sprintf("process %d (", os.Getpid()); strings.Count(log.String(), "waiting") != 1 || !strings.Contains(log.String(), us) || !strings.Contains(log.String(), dir) {
			t.Errorf("log %q, want once that it waits for %q", log.String(), us)
		}
	})
}

func TestALockThatStaysIsAnErrorThatNamesItsHolder(t *testing.T) {
	dir := newDir(t)
	synctest.Test(t, func(t *testing.T) {
		defer held(t, dir)()
		began := time.Now()
		_, err := Open(dir, Options{TrustDomain: td})
		if err == nil || !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
			t.Errorf("%v", err)
		}
		if waited := time.Since(began); waited < lockWithin || waited > lockWithin+time.Second {
			t.Errorf("after %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := (Directory{Path: dir}).Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}
