// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"
	"testing/synctest"
)

// idlePod is a pod that holds places which it does not need.
type idlePod struct {
	*Part
	idle, asked int
}

func newIdlePod(t *testing.T, b *Budget, name string, idle int) *idlePod {
	t.Helper()
	p := &idlePod{Part: b.Share(name).Descriptors, idle: idle}
	for range idle {
		if err := p.Take(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(p.Yield(p.yield))
	return p
}

func (p *idlePod) yield() bool {
	if p.asked++; p.idle == 0 {
		return false
	}
	p.idle--
	p.Give()
	return true
}

func TestWhatIsIdleMakesRoomBeforeItsPodIsRefused(t *testing.T) {
	p := newIdlePod(t, budgetOf(1000, 0), "shop/db", 600)
	for n := range 780 {
		if err := p.Take(); err != nil {
			t.Fatalf("after %d: %v", n, err)
		}
	}
	if p.idle != 0 {
		t.Errorf("%d are idle", p.idle)
	}
}

func TestWhatIsIdleElsewhereMakesRoomForASmallPod(t *testing.T) {
	b := budgetOf(1000, 0)
	large, small := newIdlePod(t, b, "shop/large", 500), newIdlePod(t, b, "shop/small", 300)
	late := b.Share("shop/late").Descriptors
	for range 400 {
		if err := late.Take(); err != nil {
			t.Fatal(err)
		}
	}
	if large.idle >= 300 || small.idle >= 300 {
		t.Errorf("%d of the large pod and %d of the small one are idle, want them to have made room in turn", large.idle, small.idle)
	}
}

func TestNobodyIsAskedWhileThereIsEnough(t *testing.T) {
	p := newIdlePod(t, budgetOf(1000, 0), "shop/db", 500)
	if err := p.Take(); err != nil || p.asked != 0 {
		t.Errorf("%v, asked %d times", err, p.asked)
	}
}

func TestWhoHasNothingIdleIsNotAskedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which no time passes
		p := newIdlePod(t, budgetOf(1000, 0), "shop/db", 0)
		if takeAll(p.Part); p.asked != 1 {
			t.Errorf("asked %d times", p.asked)
		}
	})
}
