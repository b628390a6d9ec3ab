// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatChangesGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Progress
		for _, step := range []struct {
			left int
			want time.Duration
		}{{0, 0}, {0, time.Second}, {0, 2 * time.Second}, {5, 0}, {5, time.Second}, {4, 0}, {5, 0}} {
			if got := p.Stood(step.left); got != step.want {
				t.Errorf("%d are left, and were for %v, want %v", step.left, got, step.want)
			}
			time.Sleep(time.Second)
		}
	})
}
