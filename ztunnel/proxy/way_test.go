// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net/netip"
	"testing"
)

// ending is a way that carries nothing, and ends as it is told.
type ending struct {
	carried int
	err     error
}

func (w *ending) carry(_ *connection, over func(error)) {
	w.carried++
	over(w.err)
}

func TestAWayIsCarriedOnceAndRecordedOnce(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "web")
	for _, tc := range []struct {
		name    string
		opened  error // how open refused it
		ended   error // how it ended on its way
		carried int
		word    Word
	}{
		{"it goes to its end", nil, nil, 1, OK},
		{"it is broken off on its way", nil, fail(Reset, errors.New("broken off")), 1, Reset},
		{"it is refused and has no way", fail(Denied, errors.New("not you")), nil, 0, Denied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, over := &ending{err: tc.ended}, 0
			c := b.begin(t.Context(), outbound, netip.AddrPortFrom(webAddr, 1))
			c.run(func() (way, error) {
				if tc.opened != nil {
					return nil, tc.opened
				}
				return w, nil
			}, func() { over++ })
			b.record(tc.word)
			if w.carried != tc.carried || over != 1 || len(b.records) != 0 {
				t.Errorf("carried %d times and recorded %d times more, want %d and none", w.carried, len(b.records), tc.carried)
			}
		})
	}
}
