// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"sync"
	"testing"
)

func TestTheLockOfOneNamespaceIsNotAnothers(t *testing.T) {
	var l Locks
	unlock := l.Lock(1)
	l.Lock(2)() // or the test hangs
	if l.locks[1].mu.TryLock() {
		t.Error("two have the lock of one namespace")
	}
	unlock()

	var group sync.WaitGroup
	n := 0 // the race detector looks at it
	for range 100 {
		group.Go(func() {
			defer l.Lock(1)()
			n++
		})
	}
	group.Wait()
	if n != 100 || len(l.locks) != 0 {
		t.Errorf("%d had the lock, %d locks are kept that nobody holds", n, len(l.locks))
	}
}
