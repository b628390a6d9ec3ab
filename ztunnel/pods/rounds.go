// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// patience is how long a round waits for one pod. What a pod has in its netns
	// decides how long it takes to look at it, and no other pod may pay for that.
	patience = time.Second
	// confirmedFor is how long the kernel's word on a pod counts.
	confirmedFor = 3 * verifyEvery
)

// rounds are calls for every pod, in which some pods may take long.
type rounds struct {
	calls sync.WaitGroup // that have not returned
}

// each calls f for the pods, a few at a time, and waits for the calls, but for none
// longer than patience. A pod whose call of an earlier round has not returned is
// left out.
func (r *rounds) each(pods []*pod, f func(*pod)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, pod := range pods {
		if !pod.visited.TryLock() {
			continue
		}
		group.Go(func() error {
			done := make(chan struct{})
			r.calls.Go(func() {
				defer close(done)
				defer pod.visited.Unlock()
				f(pod)
			})
			select {
			case <-done:
			case <-time.After(patience):
			}
			return nil
		})
	}
	group.Wait()
}

// wait waits for the calls that no round waited for.
func (r *rounds) wait() { r.calls.Wait() }

// setConfirmed notes what the kernel said of a pod now.
func (pod *pod) setConfirmed(yes bool) {
	at := int64(0)
	if yes {
		at = time.Now().UnixNano()
	}
	pod.confirmedAt.Store(at)
}

// isConfirmed reports whether the kernel agreed lately that the pod is in the mesh:
// of one that takes too long to look at nobody knows.
func (pod *pod) isConfirmed() bool {
	return time.Since(time.Unix(0, pod.confirmedAt.Load())) < confirmedFor
}
