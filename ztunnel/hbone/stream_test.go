// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pattern is size reproducible bytes that do not repeat.
func pattern(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func TestBytesArriveAsSentInBothDirectionsAtOnce(t *testing.T) {
	sizes := []int{0, 1, 100, 16375, 16376, 64 << 10, 1 << 20, 8 << 20}
	if !testing.Short() {
		sizes = append(sizes, 64<<20)
	}
	l := newLink(t, nil)
	for i, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a := l.open()
			data := pattern(uint64(i), size)
			var sending sync.WaitGroup
			sending.Go(func() {
				if _, err := a.Write(data); err != nil {
					t.Error(err)
				}
				a.CloseWrite()
			})
			hash := sha256.New()
			n, err := io.Copy(hash, a)
			sending.Wait()
			if want := sha256.Sum256(data); err != nil || int(n) != size || !bytes.Equal(hash.Sum(nil), want[:]) {
				t.Fatalf("got %d bytes, error %v, or other ones, want %d", n, err, size)
			}
			want := result{Totals{uint64(size), uint64(size)}, nil}
			if got := a.wait(t); got != want {
				t.Errorf("Carry returned %+v, want %+v", got, want)
			}
		})
	}
}

func TestAThousandStreamsShareFewTunnels(t *testing.T) {
	const n = 1000
	l := newLink(t, nil)
	apps := make([]*app, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			a := l.open()
			apps[i] = a
			data := pattern(uint64(i), 5000+i)
			go func() {
				a.Write(data)
				a.CloseWrite()
			}()
			got, err := io.ReadAll(a)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	for _, a := range apps {
		if r := a.wait(t); r.err != nil {
			t.Error(r.err)
		}
	}
	if stats := l.pool.Stats(); stats.Opened != n || stats.Streams != 0 || stats.Dials > n/clientStreams+2 {
		t.Errorf("%+v", stats)
	}
}

func TestEitherSideMayCloseItsDirectionAlone(t *testing.T) {
	l, far := newPipe(t)
	a := l.open()
	b := <-far
	a.write("question")
	a.CloseWrite()
	b.wantRead("question")
	b.wantEOF()
	b.write("a late answer")
	a.wantRead("a late answer")
	b.CloseWrite()
	a.wantEOF()
	for _, end := range []*app{a, b} {
		if r := end.wait(t); r.err != nil {
			t.Error(r.err)
		}
	}

	a = l.open()
	b = <-far
	b.write("banner")
	b.CloseWrite()
	a.wantRead("banner")
	a.wantEOF()
	a.write("still here")
	b.wantRead("still here")
	a.CloseWrite()
	b.wantEOF()
	for _, end := range []*app{a, b} {
		if r := end.wait(t); r.err != nil {
			t.Error(r.err)
		}
	}
}

func TestAResetReachesTheOtherApp(t *testing.T) {
	l, far := newPipe(t)
	for _, fromClient := range []bool{true, false} {
		a := l.open()
		b := <-far
		a.write("x")
		b.wantRead("x")
		breaks, feels := a, b
		if !fromClient {
			breaks, feels = b, a
		}
		breaks.SetLinger(0)
		breaks.Close()
		feels.wantReset()
		for _, end := range []*app{a, b} {
			if r := end.wait(t); !errors.Is(r.err, ErrReset) {
				t.Errorf("Carry returned %v, want %v", r.err, ErrReset)
			}
		}
	}
	a := l.open()
	b := <-far
	a.wantAliveWith(b)
}

func TestResetAndCloseHereReachBothApps(t *testing.T) {
	reason := errors.New("policy changed")
	for _, breakOff := range []func(*Stream){
		func(s *Stream) { s.Reset() },
		func(s *Stream) { s.Close(reason) },
	} {
		l, far := newPipe(t)
		a := l.open()
		b := <-far
		breakOff(b.s)
		a.wantReset()
		b.wantReset()
		if err := b.wait(t).err; !errors.Is(err, reason) && !errors.Is(err, ErrReset) {
			t.Errorf("Carry returned %v", err)
		}
		if err := a.wait(t).err; !errors.Is(err, ErrReset) {
			t.Errorf("Carry returned %v", err)
		}
	}
}

// An app that reads slowly holds back its peer's app, costs no more memory than
// its window, and leaves other streams of the tunnel alone.
func TestSlowReaderHoldsBackOnlyItsOwnPeer(t *testing.T) {
	l, far := newPipe(t)
	slow, sink := l.open(), <-far
	n := slow.fill(sink)

	// What got away is in socket buffers, or held in the window.
	sink.s.toApp.mu.Lock()
	held, room := sink.s.toApp.waiting.size, memory(&sink.s.toApp.waiting)
	sink.s.toApp.mu.Unlock()
	sink.s.c.mu.Lock()
	window := sink.s.limit
	sink.s.c.mu.Unlock()
	if held > window || held < window/4 || room > 2*window {
		t.Errorf("%d bytes held in %d, window %d", held, room, window)
	}
	other, b := l.open(), <-far
	if other.s.c != slow.s.c {
		t.Fatal("want both streams in one tunnel")
	}
	other.wantAliveWith(b)

	slow.SetWriteDeadline(time.Time{})
	slow.CloseWrite()
	got, err := io.Copy(io.Discard, sink)
	if err != nil || int(got) != n {
		t.Errorf("got %d of %d bytes, %v", got, n, err)
	}
	sink.Close()
	if r := slow.wait(t); r.err != nil || r.totals.Sent != uint64(n) {
		t.Errorf("%+v", r)
	}
}

// Many bulk streams must not starve one that says little.
func TestBulkStreamsLetSmallOnesThrough(t *testing.T) {
	l, far := newPipe(t)
	small, echo := l.open(), <-far
	go io.Copy(echo, echo)
	stop := make(chan struct{})
	var bulk sync.WaitGroup
	for range 4 {
		a, b := l.open(), <-far
		bulk.Go(func() { io.Copy(io.Discard, b) })
		bulk.Go(func() {
			defer a.CloseWrite()
			chunk := make([]byte, 256<<10)
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := a.Write(chunk); err != nil {
						return
					}
				}
			}
		})
		t.Cleanup(func() { b.Close() })
	}
	for range 20 {
		small.write("ping")
		small.wantRead("ping") // within its deadline
	}
	close(stop)
	small.CloseWrite()
	bulk.Wait()
}

// A peer that neither answers nor closes must not keep us from noticing that
// our own app is gone, even when nothing is read from the app any more. What the app
// sent before is not kept forever for a peer that takes none of it.
func TestAppThatIsGoneIsNoticedThoughThePeerNeverCloses(t *testing.T) {
	for name, prepare := range map[string]func(a *app, b *app){
		"after its FIN": func(a, b *app) {
			a.CloseWrite()
			b.wantEOF()
		},
		"while the peer takes no more": func(a, b *app) {
			a.fill(b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, far := newPipe(t)
			a, b := l.open(), <-far
			prepare(a, b)
			waitUntil(t, func() bool {
				return a.s.stateOfSender() != senderWaiting
			})
			a.SetLinger(0)
			a.Close()
			waitUntil(t, a.s.appGone)
			for range 1 + unmovedTicks + 1 {
				a.s.c.tick()
			}
			if r := a.wait(t); !errors.Is(r.err, ErrReset) {
				t.Errorf("Carry returned %v", r.err)
			}
			if r := b.wait(t); !errors.Is(r.err, ErrReset) {
				t.Errorf("Carry returned %v", r.err)
			}
		})
	}
}

func TestStreamsEndWithTheirTunnel(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.open(), <-far
	a.s.c.wire.Close()
	a.wantReset()
	b.wantReset()
	for _, end := range []*app{a, b} {
		if r := end.wait(t); !errors.Is(r.err, ErrReset) {
			t.Errorf("Carry returned %v", r.err)
		}
	}
}

// The peer may close the tunnel when all was said; what came is still delivered.
func TestWhatCameIsDeliveredThoughTheTunnelIsGone(t *testing.T) {
	l, far := newPipe(t)
	s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	near, end := socketPair(t)
	near.SetWriteBuffer(16 << 10)
	end.SetReadBuffer(16 << 10)
	a, b := carryOn(t, s, near, end), <-far
	a.openWindowTo(b)
	const n = wideWindow - 1
	b.do(b.Write(make([]byte, n)))
	b.CloseWrite()
	a.CloseWrite()
	waitUntil(t, func() bool {
		a.s.c.mu.Lock()
		defer a.s.c.mu.Unlock()
		return a.s.closed()
	})
	b.wantEOF()
	waitUntil(t, a.s.c.allArrived)
	b.s.c.wire.Close()
	waitUntil(t, a.s.c.over)
	a.s.toApp.mu.Lock()
	held := a.s.toApp.waiting.size
	a.s.toApp.mu.Unlock()
	if held == 0 {
		t.Fatal("the sockets took it all")
	}
	got, err := io.Copy(io.Discard, a)
	if err != nil || got != n {
		t.Errorf("%d bytes, %v", got, err)
	}
	if r := a.wait(t); r.err != nil {
		t.Error(r.err)
	}
}

// allArrived reports that the peer's TCP has acknowledged what was written. A socket
// that is closed with bytes that nobody has read yet acknowledges no more.
func (c *conn) allArrived() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.writer.busy() && c.writer.queued() == 0 && c.arrived() == int64(c.wire.Written())
}

func TestAcceptAndCarryAfterTheStreamIsOver(t *testing.T) {
	l, _ := newPipe(t)
	s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	a := carry(t, s)
	a.wantReset()
	if r := a.wait(t); !errors.Is(r.err, ErrReset) || r.totals != (Totals{}) {
		t.Errorf("%+v", r)
	}
	if err := s.Accept(); !errors.Is(err, ErrReset) {
		t.Errorf("Accept: %v", err)
	}
	if err := s.Reject(503); !errors.Is(err, ErrReset) {
		t.Errorf("Reject: %v", err)
	}
}

// The kernel tells a socket's error once: the tunnel's reader, which writes to
// an app, may hear of its reset before the pump reads from it, and to the pump it then
// looks like an end of data.
func TestAResetIsNotTakenForAnEndOfData(t *testing.T) {
	l, far := newPipe(t)
	s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	b := <-far
	near, app := socketPair(t)
	reset(app)
	waitUntil(t, func() bool {
		_, err := near.Write([]byte("x"))
		return errors.Is(err, syscall.ECONNRESET)
	})
	if _, err := carryAll(s, near); !errors.Is(err, ErrReset) {
		t.Errorf("Carry returned %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other app is told %v, want a reset", err)
	}
}

// A node opens thousands a second, and each costs both ends.
func TestAStreamThatIsOpenedAndBrokenOffAllocatesLittle(t *testing.T) {
	l := newLink(t, func(s *Stream) {
		s.Accept()
		<-s.Done()
		s.Reset()
	})
	l.open()
	const most = 23 // at both ends and in this test; 18 as a rule, 22 with the race detector
	n := testing.AllocsPerRun(500, func() {
		s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
		if err != nil {
			t.Fatal(err)
		}
		s.Reset()
	})
	if n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	}
}
