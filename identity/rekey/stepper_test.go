// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// counted is a Store that says how often it was read.
type counted struct {
	ca.Memory
	reads atomic.Int32
}

func (c *counted) Read(ctx context.Context) (ca.Files, error) {
	c.reads.Add(1)
	return c.Memory.Read(ctx)
}

// alone is a Board of one replica.
type alone struct{}

func (alone) Put(context.Context, string, []byte) error      { return nil }
func (alone) All(context.Context) (map[string][]byte, error) { return nil, nil }

// Each look asks the API server: while nothing is under way there are few, and the store's
// watch tells of a beginning at once.
func TestAStepperThatHasNothingToDoRarelyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counted{}
		c, err := ca.New(ca.Options{TrustDomain: td})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Load(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		s := NewStepper(Options{CA: c, Store: store, Board: alone{}, Name: "one", Heard: func(time.Time) Report { return Report{} }})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Second)
		store.reads.Store(0)
		time.Sleep(10 * time.Minute)
		if n := store.reads.Load(); n > 25 {
			t.Errorf("it looked %d times in ten minutes", n)
		}
		files, err := store.Memory.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Replace(ctx, files, Plan{State: Prepare, Paused: true}.Files()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.Status(); got.State != Prepare || !got.Paused || len(got.Waits) != 1 {
			t.Errorf("it has not seen that a re-key began: %+v", got)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Soon after a start no node has had time to say what rests on the former root, and the clock
// must not speak for it.
func TestAReplicaThatJustStartedHearsNodesBeforeItDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStepper(Options{Heard: func(time.Time) Report { return Report{} }})
		p := Plan{State: Drain, Step: 4, Began: time.Now().Add(-time.Hour)}
		for _, tc := range []struct {
			after time.Duration
			want  uint64
		}{{0, 0}, {answer, 0}, {answer, p.Step}} {
			time.Sleep(tc.after)
			if got := s.report(p, true); got.Step != tc.want {
				t.Errorf("%v later it has seen step %d, want %d", tc.after, got.Step, tc.want)
			}
		}
	})
}

// A replica that may not even ask who leads says so; one that follows says nothing.
func TestAReplicaThatCannotTakeTheLeadSaysSo(t *testing.T) {
	store := &ca.Memory{}
	c, err := ca.New(ca.Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	files, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Begin(Plan{State: Stable}, files, newParty(t).kit, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Replace(t.Context(), files, plan.Files()); err != nil {
		t.Fatal(err)
	}
	forbidden := errors.New("leases are forbidden")
	for lead, want := range map[error]error{forbidden: forbidden, fmt.Errorf("%w: held", ErrFollows): nil} {
		s := NewStepper(Options{CA: c, Store: store, Board: alone{}, Name: "one", Heard: func(time.Time) Report { return Report{} },
			Lead: func(context.Context) error { return lead }})
		if again, err := s.Look(t.Context()); again || !errors.Is(err, want) {
			t.Errorf("lead says %v: %v, %v", lead, again, err)
		}
	}
}
