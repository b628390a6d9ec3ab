// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"testing"
	"time"
)

func TestSelfTestPassesOnThisKernel(t *testing.T) {
	w := newWorld(t)
	start := time.Now()
	if err := w.d.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
	t.Log(time.Since(start), w.d.Stats())
}
