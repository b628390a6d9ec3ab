// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipeEnds counts this process's ends of pipes.
func pipeEnds(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "pipe:") {
			n++
		}
	}
	return n
}

// atRest counts the pipes that wait to be lent.
func (p *pipePool) atRest() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.resting)
}

func TestConnectionsHoldAPipeOnlyWhileBytesAreInIt(t *testing.T) {
	eventually(t, "the pipes of other tests are closed", func() bool { return pipes.atRest() == 0 })
	before := pipeEnds(t)
	chunk := bytes.Repeat([]byte("bulk"), 1<<18)
	got := make([]byte, len(chunk))
	var open []*relayed
	for range 2 * pipesAtRest {
		r := startRelay(t)
		open = append(open, r)
		go r.client.Write(chunk)
		if _, err := io.ReadFull(r.server, got); err != nil || !bytes.Equal(got, chunk) {
			t.Fatalf("what arrived is not what was sent: %v", err)
		}
	}
	if now := pipeEnds(t) - before; now > 2*pipesAtRest {
		t.Errorf("%d ends of pipes are open for %d idle connections", now, len(open))
	}
	eventually(t, "pipes that nobody needs are closed", func() bool { return pipeEnds(t) <= before })
	for _, r := range open { // and are made again
		r.running()
		go r.server.Write(chunk)
		if _, err := io.ReadFull(r.client, got); err != nil || !bytes.Equal(got, chunk) {
			t.Fatalf("what arrived is not what was sent: %v", err)
		}
	}
}

// A receiver that does not read keeps its own pipe full, and nobody else's.
func TestAPipeWithBytesInItIsNotLent(t *testing.T) {
	slow := startRelay(t)
	chunk := bytes.Repeat([]byte("slow"), 8<<20)
	sent := make(chan error, 1)
	go func() {
		_, err := slow.client.Write(chunk)
		sent <- err
	}()
	moved, since := uint64(0), time.Now()
	eventually(t, "the slow one is blocked", func() bool { // after as much as the kernel takes this time
		if n := slow.bytes.sent.Load(); n != moved {
			moved, since = n, time.Now()
		}
		return moved > 0 && time.Since(since) > 100*time.Millisecond
	})
	for range 4 {
		r := startRelay(t)
		text := bytes.Repeat([]byte("quick"), 1<<18)
		go r.client.Write(text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(r.server, got); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("what arrived is not what was sent: %v", err)
		}
	}
	got := make([]byte, len(chunk))
	if _, err := io.ReadFull(slow.server, got); err != nil || !bytes.Equal(got, chunk) {
		t.Errorf("what arrived is not what was sent: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestPipesThatAreNeededAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pool pipePool
		busy, err := pool.get()
		if err != nil {
			t.Fatal(err)
		}
		idle, err := pool.get()
		if err != nil {
			t.Fatal(err)
		}
		pool.put(idle)
		pool.put(busy)
		for range 10 {
			time.Sleep(pipeRest / 2)
			again, err := pool.get()
			if err != nil || again != busy {
				t.Fatalf("lent %v, %v; want the one that was used last", again, err)
			}
			pool.put(again)
		}
		if n := pool.atRest(); n != 1 {
			t.Errorf("%d pipes at rest, want the one that is used", n)
		}
		time.Sleep(3 * pipeRest)
		synctest.Wait()
		if n := pool.atRest(); n != 0 {
			t.Errorf("%d pipes at rest, of which nobody has need", n)
		}
	})
}

// Apps that do not read hold the pipes that their bytes are in. Beyond a bound
// the others are served without.
func TestWithoutAPipeBytesAreCopied(t *testing.T) {
	pipesOpen.Add(pipesMost)
	defer pipesOpen.Add(-pipesMost)
	if _, err := newPipe(); err != errScarce {
		t.Errorf("one pipe more than there may be: %v", err)
	}
	r := startRelay(t)
	text := bytes.Repeat([]byte("bulk"), 1<<20)
	go r.client.Write(text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r.server, got); err != nil || !bytes.Equal(got, text) {
		t.Fatalf("what arrived is not what was sent: %v", err)
	}
}
