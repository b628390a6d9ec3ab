// SPDX-License-Identifier: Apache-2.0

package netns

import "sync"

// Locks are one mutex for each namespace: what takes long in one holds up no other.
// The zero value is ready. A namespace whose mutex nobody holds or waits for costs
// nothing.
type Locks struct {
	mu    sync.Mutex // guards what follows
	locks map[Cookie]*lock
}

type lock struct {
	mu    sync.Mutex
	users int // that hold it or wait for it
}

// Lock locks the mutex of a namespace, and returns the function that unlocks it.
func (l *Locks) Lock(cookie Cookie) (unlock func()) {
	l.mu.Lock()
	one := l.locks[cookie]
	if one == nil {
		one = &lock{}
		if l.locks == nil {
			l.locks = make(map[Cookie]*lock)
		}
		l.locks[cookie] = one
	}
	one.users++
	l.mu.Unlock()
	one.mu.Lock()
	return func() {
		one.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.locks, cookie)
		}
	}
}
