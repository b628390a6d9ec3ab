// SPDX-License-Identifier: Apache-2.0

package workers

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func never() bool { return false }

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in ten seconds it did not come about that %s", what)
		}
	}
}

// goroutine is the first line of the trace of the one that calls it: its number, and
// that it runs.
func goroutine() string {
	line, _, _ := strings.Cut(string(debug.Stack()), "\n")
	return line
}

func TestOneGoroutineRunsOneAfterTheOther(t *testing.T) {
	p, ran := New(never), make(chan string)
	seen := map[string]bool{}
	eventually(t, "a goroutine runs a second function", func() bool {
		p.Go(func() { ran <- goroutine() })
		one := <-ran
		again := seen[one]
		seen[one] = true
		return again
	})
}

func TestNobodyWaitsForAGoroutineThatIsBusy(t *testing.T) {
	for name, p := range map[string]*Pool{"a pool": New(never), "none": nil} {
		t.Run(name, func(t *testing.T) {
			var all sync.WaitGroup
			all.Add(3 * most)
			for range 3 * most {
				p.Go(func() {
					all.Done()
					all.Wait() // which ends only if all run at once
				})
			}
			all.Wait()
			if p != nil {
				eventually(t, "no more wait than are of use", func() bool { return p.waiting.Load() == most })
			}
		})
	}
}

func TestNobodyWaitsInAPoolThatIsClosed(t *testing.T) {
	p, ran := New(never), make(chan bool)
	p.Go(func() { ran <- true })
	<-ran
	eventually(t, "a goroutine waits", func() bool { return p.waiting.Load() == 1 })
	p.Close()
	eventually(t, "none waits", func() bool { return p.waiting.Load() == 0 })
	p.Go(func() { ran <- true })
	<-ran
	eventually(t, "none waits again", func() bool { return p.waiting.Load() == 0 })
}

// A goroutine may have left its thread in a pod's netns: it runs nothing for another pod.
func TestNoGoroutineRunsASecondFunctionOnceTheyAreSpent(t *testing.T) {
	p, ran := New(func() bool { return true }), make(chan string)
	seen := map[string]bool{}
	for range 100 {
		p.Go(func() { ran <- goroutine() })
		seen[<-ran] = true
	}
	if len(seen) != 100 || p.waiting.Load() != 0 {
		t.Errorf("100 functions ran in %d goroutines, and %d wait", len(seen), p.waiting.Load())
	}
}

// A load leaves no goroutines behind, and one that always has something to do stays.
func TestThoseThatHaveNothingToDoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ran := New(never), make(chan string)
		for range 10 {
			p.Go(func() { time.Sleep(time.Second) })
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := p.waiting.Load(); n != 10 {
			t.Fatalf("%d wait", n)
		}
		seen := map[string]bool{}
		for range 100 {
			p.Go(func() { ran <- goroutine() })
			seen[<-ran] = true
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.waiting.Load(); n != 1 || len(seen) > 10 {
			t.Errorf("%d wait while one at a time is needed; %d ran", n, len(seen))
		}
		time.Sleep(3 * look)
		synctest.Wait()
		if n := p.waiting.Load(); n != 0 {
			t.Errorf("%d wait for ever", n)
		}
	}) // which fails if one is left
}

// What ran may hold a connection, and waits for nobody.
func TestWhatRanIsForgotten(t *testing.T) {
	p, gone := New(never), make(chan struct{})
	func() {
		held := new([1 << 10]byte)
		runtime.AddCleanup(held, func(struct{}) { close(gone) }, struct{}{})
		p.Go(func() { held[0]++ })
	}()
	eventually(t, "a goroutine that waits holds nothing of what it ran", func() bool {
		runtime.GC()
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
}
