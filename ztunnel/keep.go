// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// keepEvery is how often the state directory is looked at.
const keepEvery = 2 * time.Second

// keeper restores what another hand removes from the state directory or puts
// in its place: without its sockets no pod starts, without its records the next
// ztunnel knows no pod, and without the lock a second one may run.
type keeper struct {
	lock  func() error // takes the lock again if the directory was replaced
	parts []kept
	wrong func(what string) // was restored

	mu      sync.Mutex
	problem error // that something could not be restored, when last looked at
}

// kept is one thing in the directory. keep reports whether it was gone.
type kept struct {
	name string
	keep func() (replaced bool, err error)
}

// Run looks after the directory until ctx ends.
func (k *keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look changes nothing in a directory that another process has locked.
func (k *keeper) look() {
	err := k.lock()
	if err == nil {
		var problems []error
		for _, part := range k.parts {
			replaced, err := part.keep()
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", part.name, err))
			} else if replaced {
				k.wrong(part.name)
			}
		}
		err = errors.Join(problems...)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problem = err
}

// Sound returns what could not be restored.
func (k *keeper) Sound() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}
