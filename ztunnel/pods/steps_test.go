// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// trace records what was done to it and not undone.
type trace struct{ standing []string }

func tracing(failing string, names ...string) []step[*trace] {
	var steps []step[*trace]
	for _, name := range names {
		steps = append(steps, step[*trace]{
			name: name,
			do: func(_ context.Context, tr *trace) error {
				if name == failing {
					return errors.New("injected")
				}
				tr.standing = append(tr.standing, name)
				return nil
			},
			undo: func(_ context.Context, tr *trace) error {
				last := len(tr.standing) - 1
				if last < 0 || tr.standing[last] != name {
					return errors.New("undone out of order")
				}
				tr.standing = tr.standing[:last]
				return nil
			},
		})
	}
	return steps
}

func TestAFailureAtAnyStepLeavesNothingStanding(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	for _, failing := range names {
		var tr trace
		err := doSteps(t.Context(), tracing(failing, names...), &tr)
		if want := failing + ": injected"; err == nil || err.Error() != want {
			t.Errorf("failing %s: error %v, want %q", failing, err, want)
		}
		if len(tr.standing) != 0 {
			t.Errorf("failing %s: %v still stand", failing, tr.standing)
		}
	}
}

func TestStepsRunInOrderAndUndoInReverse(t *testing.T) {
	var tr trace
	steps := tracing("", "a", "b", "c")
	if err := doSteps(t.Context(), steps, &tr); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(tr.standing, []string{"a", "b", "c"}) {
		t.Errorf("done in order %v", tr.standing)
	}
	if err := undoSteps(t.Context(), steps, &tr); err != nil {
		t.Error(err)
	}
}

func TestAnEnrolmentNobodyWaitsForIsUndone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var tr trace
	steps := tracing("", "a", "b", "c")
	steps[1].do = func(_ context.Context, tr *trace) error {
		tr.standing = append(tr.standing, "b")
		cancel()
		return nil
	}
	if err := doSteps(ctx, steps, &tr); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want cancelled", err)
	}
	if len(tr.standing) != 0 {
		t.Errorf("%v still stand", tr.standing)
	}
}
