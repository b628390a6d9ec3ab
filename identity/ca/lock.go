// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/flock"
)

// How long the lock of a directory is waited for. Whoever holds it reads or writes a
// few small files; one that holds it for long hangs, or is stopped.
const (
	lockPause  = 20 * time.Millisecond
	sayLocked  = time.Second
	lockWithin = 15 * time.Second
)

// lock holds other processes that use the same directory off until unlock. It locks
// the directory itself, so that the lock leaves no file behind.
func (d Directory) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	if err := d.await(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func (d Directory) await(ctx context.Context, f *os.File) error {
	began, said := time.Now(), false
	for {
		if err := flock.Try(f); !errors.Is(err, flock.ErrHeld) {
			return err
		}
		waited := time.Since(began)
		if waited >= lockWithin {
			return fmt.Errorf("%w: %s is locked by %s, for more than %v", ErrUnreachable, d, flock.Holder(f), lockWithin)
		}
		if waited >= sayLocked && !said && d.Log != nil {
			said = true
			d.Log.Warn("the directory of the CA is locked; waiting", logStore, d.Path, logHolder, flock.Holder(f))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s is locked by %s: %w", ErrUnreachable, d, flock.Holder(f), ctx.Err())
		case <-time.After(lockPause):
		}
	}
}
