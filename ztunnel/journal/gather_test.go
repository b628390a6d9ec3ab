// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts how often it was written to.
type counted struct{ writes atomic.Int32 }

func (c *counted) Write(text []byte) (int, error) {
	c.writes.Add(1)
	return len(text), nil
}

func TestOneWriteTakesTheRecordsThatFollowAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out counted
		log, j := open(&out, Options{})
		written := func(want int32, when string) {
			t.Helper()
			synctest.Wait()
			if n := out.writes.Load(); n != want {
				t.Errorf("%d writes %s, want %d", n, when, want)
			}
		}
		log.Info("first")
		written(1, "of a record after a silence")
		log.Info("second")
		log.Info("third")
		written(1, "while records are gathered")
		time.Sleep(gatherTime)
		written(2, "when they were")
		log.Info("fourth")
		log.Error("fifth")
		written(3, "of an error, which does not wait")
		log.Info("sixth")
		closed(t, j)
		written(4, "in the end")
	})
}
