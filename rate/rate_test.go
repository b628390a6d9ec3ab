// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestABurstIsSpentAndComesBackWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := Limit{PerSecond: 2, Burst: 3}
		var l Left
		if l.Spent(limit) || !l.Whole(limit) {
			t.Error("spent before anything happened")
		}
		for i := range 3 {
			if !l.Spend(limit) {
				t.Fatalf("event %d refused", i)
			}
		}
		if !l.Spent(limit) || l.Spend(limit) {
			t.Error("an event over the burst")
		}
		time.Sleep(time.Second / 2)
		if l.Spent(limit) || !l.Spend(limit) || l.Spend(limit) {
			t.Error("half a second brings one event back")
		}
		if l.Whole(limit) {
			t.Error("nothing is left, and that is said to be a whole burst")
		}
		time.Sleep(time.Hour)
		if !l.Whole(limit) {
			t.Error("not all came back within an hour")
		}
		for range 3 {
			l.Spend(limit)
		}
		if l.Spend(limit) {
			t.Error("an hour brings more than a burst back")
		}
	})
}
