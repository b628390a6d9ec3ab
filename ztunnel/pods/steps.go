// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
)

// A step is one part of putting T, a pod sandbox, into the mesh. do is called
// once per enrolment; what it leaves behind when it fails, it removes itself.
// undo is nil where the step's effect ends with the sandbox.
type step[T any] struct {
	name string
	do   func(context.Context, T) error
	undo func(context.Context, T) error
}

// doSteps does steps in order. When one fails, those before it are undone in
// reverse order and nothing of the enrolment remains.
func doSteps[T any](ctx context.Context, steps []step[T], pod T) error {
	for i, s := range steps {
		err := s.do(ctx, pod)
		if err == nil {
			err = ctx.Err() // an answer nobody waits for any more must not enroll
			if err != nil {
				i++
			}
		}
		if err != nil {
			cancelled, cancel := context.WithCancel(context.WithoutCancel(ctx))
			cancel() // nothing carried yet: no draining
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), undoSteps(cancelled, steps[:i], pod))
		}
	}
	return nil
}

// undoSteps undoes steps in reverse order. It goes on past failures and
// returns all of them.
func undoSteps[T any](ctx context.Context, steps []step[T], pod T) error {
	var problems error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].undo == nil {
			continue
		}
		if err := steps[i].undo(ctx, pod); err != nil {
			problems = errors.Join(problems, fmt.Errorf("undo %s: %w", steps[i].name, err))
		}
	}
	return problems
}
