// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"sync"
	"time"
)

// What a pod has in its netns decides how long it takes to look at it, and no other
// pod may pay for that.
const (
	// turn is how long a call may take one of the places of a round. A pod that takes
	// longer has no place in the next round.
	turn = 100 * time.Millisecond
	// patience is how long a round waits for the calls that had places, after the last
	// of them began.
	patience = time.Second
	// confirmedFor is how long the kernel's word on a pod counts.
	confirmedFor = 3 * verifyEvery
)

// rounds are calls for every pod, in which some pods may take long.
type rounds struct {
	calls sync.WaitGroup // that have not returned
}

// each calls f for the pods, and waits for the calls until its patience ends. There
// are places for a few calls at a time. A pod that was slow last time is called
// without a place, and not waited for. A pod whose call of an earlier round has not
// returned is left out.
func (r *rounds) each(pods []*pod, f func(*pod)) {
	places := make(chan struct{}, atOnce)
	var awaited []<-chan struct{}
	for _, pod := range pods {
		if !pod.visited.TryLock() {
			continue
		}
		if pod.slow.Load() {
			r.call(pod, f)
			continue
		}
		places <- struct{}{}
		done := r.call(pod, f)
		awaited = append(awaited, done)
		go func() {
			select {
			case <-done:
			case <-time.After(turn):
			}
			<-places
		}()
	}
	enough := time.After(patience)
	for _, done := range awaited {
		select {
		case <-done:
		case <-enough:
			return
		}
	}
}

// call starts f for a pod whose visited is held. What it returns is closed when f
// has returned.
func (r *rounds) call(pod *pod, f func(*pod)) <-chan struct{} {
	done := make(chan struct{})
	r.calls.Go(func() {
		defer close(done)
		defer pod.visited.Unlock()
		start := time.Now()
		f(pod)
		pod.slow.Store(time.Since(start) > turn)
	})
	return done
}

// wait waits for the calls that no round waited for.
func (r *rounds) wait() { r.calls.Wait() }

// setConfirmed notes what the kernel said of a pod now.
func (pod *pod) setConfirmed(yes bool) {
	if !yes {
		pod.confirmedAt.Store(nil)
		return
	}
	now := time.Now()
	pod.confirmedAt.Store(&now)
}

// isConfirmed reports whether the kernel agreed lately that the pod is in the mesh:
// of one that takes too long to look at nobody knows. What "lately" is does not
// follow the wall clock.
func (pod *pod) isConfirmed() bool {
	at := pod.confirmedAt.Load()
	return at != nil && time.Since(*at) < confirmedFor
}
