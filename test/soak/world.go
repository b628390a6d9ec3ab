// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const (
	port  = 8080
	batch = 100 * time.Millisecond // connections of this long begin together
)

// world is a pod on each of two nodes, each a client of the other.
type world struct {
	lab  *lab.Lab
	rate int
	ttl  time.Duration
	pods [2]*lab.Pod
	open [2]*agent.Conn // from the beginning to the end

	ways     [2]way
	took     time.Duration
	seen     map[string]*identity // by node and SPIFFE ID
	signers  map[string]bool      // serial numbers of the issuers of these
	replaced replaced
}

// way is what became of the connections of one pod.
type way struct {
	ok     int
	failed map[string]int // by errno
	slow   time.Duration  // the longest connect
}

func (w *world) cast(ctx context.Context) (err error) {
	if err := w.lab.Namespace("shop", map[string]string{"culvert.dev/mesh": "enabled"}); err != nil {
		return err
	}
	for i := range w.pods {
		name := w.client(i)
		if w.pods[i], err = w.lab.Nodes[i].Pod(ctx, lab.PodSpec{Namespace: "shop", Name: name, ServiceAccount: name}); err != nil {
			return err
		}
		if _, err := w.pods[i].Serve(ctx, agent.Echo, port); err != nil {
			return err
		}
	}
	for i, pod := range w.pods {
		if w.open[i], err = pod.Dial(ctx, "tcp4", w.other(i).At("tcp4", port)); err != nil {
			return fmt.Errorf("a connection from %v to %v: %w", pod, w.other(i), err)
		}
	}
	return nil
}

func (w *world) client(i int) string { return [...]string{"web", "till"}[i] }

func (w *world) other(i int) *lab.Pod { return w.pods[1-i] }

// soak opens connections, looks at certificates, and uses those that are open, for a
// while.
func (w *world) soak(ctx context.Context, length time.Duration) error {
	start := time.Now()
	timed, stop := context.WithTimeout(ctx, length)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for i := range w.pods {
		w.ways[i].failed = map[string]int{}
		group.Go(func() error { return w.connect(ctx, timed, i) })
	}
	group.Go(func() error { return w.watch(ctx, timed) })
	group.Go(func() error { return w.replaceIssuers(ctx, timed) })
	err := group.Wait()
	w.took = time.Since(start)
	return err
}

// connect opens half of the rate from one pod until end; each connection echoes and
// closes.
func (w *world) connect(ctx, end context.Context, i int) error {
	a, err := w.pods[i].Agent()
	if err != nil {
		return err
	}
	tick := time.NewTicker(batch)
	defer tick.Stop()
	count := max(1, w.rate/len(w.pods)*int(batch)/int(time.Second))
	for {
		select {
		case <-end.Done():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		crowd, err := a.Many(ctx, agent.Many{Network: "tcp4", To: w.other(i).At("tcp4", port), Count: count, Parallel: count, Timeout: 10 * time.Second})
		if err != nil {
			return err
		}
		way := &w.ways[i]
		way.ok += crowd.OK
		way.slow = max(way.slow, crowd.Connect.Max)
		for errno, n := range crowd.Failed {
			way.failed[errno] += n
			fmt.Printf("soak: %v: %d connections of %v: %s\n", time.Now().Format(time.TimeOnly), n, w.pods[i], errno)
		}
		if err := a.ManyClose(ctx, crowd.ID); err != nil {
			return err
		}
	}
}

// verdict prints what was seen, and says what must not be, by the nodes' own count too.
func (w *world) verdict(ctx context.Context) error { return errors.Join(w.judge(), w.refused(ctx)) }

func (w *world) judge() error {
	var problems []error
	total := 0
	for i, way := range w.ways {
		total += way.ok
		fmt.Printf("soak: from %s: %d connections, the longest connect %v, failed %v\n", w.client(i), way.ok, way.slow.Round(time.Millisecond), way.failed)
		if len(way.failed) > 0 {
			problems = append(problems, fmt.Errorf("connections of %s failed: %v", w.client(i), way.failed))
		}
	}
	fmt.Printf("soak: %d issuers took another's place, the slowest after %v; certificates are of %d\n", w.replaced.issuers, w.replaced.slowest.Round(time.Millisecond), len(w.signers))
	if w.took >= leastLength && (w.replaced.issuers == 0 || len(w.signers) < 2) {
		problems = append(problems, errors.New("no certificate of another issuer was seen"))
	}
	reached := float64(total) / w.took.Seconds()
	fmt.Printf("soak: %d connections in %v, %.0f/s\n", total, w.took.Round(time.Second), reached)
	if reached < 0.8*float64(w.rate) {
		problems = append(problems, fmt.Errorf("%.0f connections/s, want %d: the machine is too busy", reached, w.rate))
	}
	for name, id := range w.seen {
		fmt.Printf("soak: %s had %d certificates\n", name, len(id.serials))
		if want := int(w.took/w.ttl) + 1; len(id.serials) < want {
			problems = append(problems, fmt.Errorf("%s had %d certificates, want %d at least", name, len(id.serials), want))
		}
		for state, n := range id.bad {
			problems = append(problems, fmt.Errorf("%s was %q at %d looks", name, state, n))
		}
	}
	return errors.Join(problems...)
}
