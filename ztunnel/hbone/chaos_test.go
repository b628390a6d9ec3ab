// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// Apps that come, go and break off, and tunnels that are retired, all at once:
// what was not broken off arrives whole, and nothing is left behind.
func TestChaosBreaksOnlyWhatWasBrokenOff(t *testing.T) { chaos(t, false) }

// And tunnels that are lost: everything ends with a cause.
func TestChaosWithLostTunnelsLeavesNothingBehind(t *testing.T) { chaos(t, true) }

func chaos(t *testing.T, lose bool) {
	const workers, rounds = 12, 25
	l := newLink(t, nil)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				l.misbehave(rng, lose)
			}
		})
	}
	all.Wait()
	waitUntil(t, func() bool { return l.pool.Stats().Streams == 0 && l.ln.Stats().Streams == 0 })
	for _, c := range append(l.pool.all(), l.ln.all()...) {
		waitUntil(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.active == 0 && c.live == 0 && c.held == 0 && c.writer.turnless()
		})
	}
}

// misbehave is the life of one app.
func (l *link) misbehave(rng *rand.Rand, lose bool) {
	s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if err != nil {
		if !errors.As(err, new(Cause)) {
			l.t.Errorf("Open: %v", err)
		}
		return
	}
	a := carry(l.t, s)
	defer a.Close()
	a.SetDeadline(time.Now().Add(patience))
	data := pattern(rng.Uint64(), rng.IntN(600<<10))
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(data)
		if err == nil {
			err = a.CloseWrite()
		}
		sent <- err
	}()
	broken := lose
	switch rng.IntN(10) {
	case 0: // the app breaks off
		broken = true
		io.CopyN(io.Discard, a, rng.Int64N(100<<10))
		a.SetLinger(0)
		a.Close()
	case 1: // policy does
		broken = true
		s.Close(ErrDenied)
	case 2: // the tunnel does
		if lose {
			s.c.wire.Close()
		}
	case 3:
		l.pool.Retire(Rotated)
	case 4:
		l.ln.Retire(Rotated)
	case 5: // the app just goes
		broken = true
		a.Close()
	}
	got, readErr := io.ReadAll(a)
	sendErr := <-sent
	r := a.wait(l.t)
	switch {
	case r.err == nil && sendErr == nil && readErr == nil:
		if !bytes.Equal(got, data) {
			l.t.Errorf("%d bytes came back of %d, or other ones", len(got), len(data))
		}
	case !broken:
		l.t.Errorf("Carry: %v, write: %v, read: %v", r.err, sendErr, readErr)
	case r.err != nil && !errors.As(r.err, new(Cause)):
		l.t.Errorf("Carry: %v", r.err)
	}
}

func TestLargestFrameIsTaken(t *testing.T) {
	l := newLink(t, nil)
	p := l.greetedClient()
	p.opened(1)
	data := pattern(3, h2.FrameLimit)
	l.ln.all()[0].openWindow(1, h2.FrameLimit)
	p.must(p.WriteData(1, true, data))
	var got []byte
	for {
		f := p.until(is[*http2.DataFrame]).(*http2.DataFrame)
		got = append(got, f.Data()...)
		if f.StreamEnded() {
			break
		}
		p.must(p.WriteWindowUpdate(1, uint32(len(f.Data()))))
		p.must(p.WriteWindowUpdate(0, uint32(len(f.Data()))))
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, or other ones", len(got))
	}
}

// turnless reports that no stream waits for its turn.
func (w *writer) turnless() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready() == nil
}

// openWindow lets the peer send so many bytes on a stream.
func (c *conn) openWindow(id uint32, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	s.window, s.limit = n, n
}
