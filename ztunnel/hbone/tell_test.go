// SPDX-License-Identifier: Apache-2.0

package hbone

import "testing"

func TestAppThatBothSidesClosedInOrderIsNotTakenForGone(t *testing.T) {
	l, fars := newPipe(t)
	a := l.open()
	far := <-fars
	c := a.s.c
	c.mu.Lock()
	window := a.s.sendWindow
	a.s.sendWindow = 0
	c.mu.Unlock()
	a.write("last words") // which wait for a window
	waitUntil(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !a.s.reading
	})
	far.CloseWrite()
	a.wantEOF()
	a.CloseWrite()
	waitUntil(t, a.s.appGone)
	c.tick()
	c.mu.Lock()
	a.s.widen(window)
	c.flush(nil)
	c.mu.Unlock()
	far.wantRead("last words")
	far.wantEOF()
	if r := a.wait(t); r.err != nil {
		t.Error(r.err)
	}
}
