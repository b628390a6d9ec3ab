// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"testing"
	"time"
)

// A peer that says nothing may be behind a slow path: its kernel is heard from.
func TestAPeersKernelIsHeardThoughThePeerIsNot(t *testing.T) {
	near, _ := socketPair(t)
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	r := roundTrip{socket: raw}
	time.Sleep(300 * time.Millisecond)
	silent := r.acknowledged()
	if silent < 200*time.Millisecond {
		t.Errorf("acknowledged %v ago, though nothing was sent", silent)
	}
	waitUntil(t, func() bool { // it may have been long ago again when we look
		if _, err := near.Write([]byte("anybody there?")); err != nil {
			t.Fatal(err)
		}
		return r.acknowledged() < silent
	})
}
