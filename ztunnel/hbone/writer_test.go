// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// The writer is handed from stream to stream, to goroutines, to callers and to the tunnel's
// reader, while the socket is full now and then and the peer grants its windows late. When
// those who had something to say have said it, all of it is written, though nobody says
// anything more.
func TestWhatIsQueuedIsWrittenWhoeverLeads(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			cr := newCrew(t)
			apps := []*crewApp{cr.app(), cr.app(), cr.app()}
			for range 100 {
				var all sync.WaitGroup
				for _, a := range apps {
					maybe(&all, a.speak)
				}
				for range 3 {
					maybe(&all, cr.talk)
				}
				maybe(&all, cr.read)
				if !cr.quietAfter(&all) {
					return
				}
			}
		})
	}
}

// A stream is proven when its last frame was written, not when that is packed.
func TestNoStreamIsProvenBeforeItsLastFrameIsWritten(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			cr := newCrew(t)
			var all sync.WaitGroup
			for range 3 {
				all.Go(cr.app().finish)
				maybe(&all, cr.talk)
				maybe(&all, cr.read)
			}
			cr.quietAfter(&all)
		})
	}
}

// What a stream sends ends before its RST_STREAM, whoever reads from its app just then.
func TestNothingFollowsAReset(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			cr := newCrew(t)
			var all sync.WaitGroup
			for range 3 {
				a := cr.app()
				all.Go(a.speak)
				all.Go(func() {
					moment()
					a.s.Reset()
				})
			}
			all.Wait()
			pass(time.Second)
			if cr.wire.late > 0 {
				t.Errorf("%d frames", cr.wire.late)
			}
		})
	}
}

// A peer may count what it takes by its new SETTINGS only from their answer on.
func TestNoBytesUseNewSettingsBeforeTheirAnswer(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			cr := newCrew(t)
			cr.wire.grant, cr.c.peerWindow = func(uint32, int) {}, 100
			var all sync.WaitGroup
			for range 3 {
				all.Go(cr.app().speak)
			}
			moment()
			settings := h2.AppendSettings(nil, h2.Setting{ID: h2.SettingWindow, Value: 1 << 20})
			if err := cr.c.feed(settings); err != nil {
				t.Error(err)
			}
			cr.c.writer.allowAll(1 << 20)
			cr.quietAfter(&all)
			if cr.wire.unanswered > 3*100 {
				t.Errorf("%d bytes came before the answer", cr.wire.unanswered)
			}
		})
	}
}

// A stream whose app has its FIN while a leader is at work that finds nothing more to
// write is proven nevertheless.
func TestAStreamThatEndsWhileALeaderFindsNothingIsProven(t *testing.T) {
	cr := newCrew(t)
	a := cr.app()
	cr.c.writer.becomeLeader()
	cr.c.mu.Lock()
	cr.c.sentEnd(a.s)
	cr.c.mu.Unlock()
	cr.c.writer.endLead()
	cr.c.mu.Lock()
	cr.c.prove()
	cr.c.mu.Unlock()
	select {
	case <-a.s.done:
	default:
		t.Error("it is not")
	}
}

// What a server says first takes no goroutine, and goes with the answer to the peer's
// SETTINGS.
func TestTheGreetingOfAServerIsWrittenByWhoeverRunsTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cr := newCrew(t)
		waiting := func() int {
			synctest.Wait()
			cr.c.writer.mu.Lock()
			defer cr.c.writer.mu.Unlock()
			return len(cr.c.writer.control)
		}
		cr.c.client = false
		cr.c.greet()
		defer pass(time.Minute) // until the wire's moods are over
		defer cr.c.abort(errLost)
		if waiting() == 0 {
			t.Error("it was written at once")
		}
		cr.c.begin()
		if n := waiting(); n != 0 {
			t.Errorf("%d bytes wait", n)
		}
	})
}

func maybe(all *sync.WaitGroup, f func()) {
	if rand.N(2) == 0 {
		all.Go(func() {
			moment()
			f()
		})
	}
}

// crew is all who write in a tunnel whose peer is a moody wire.
type crew struct {
	t    *testing.T
	c    *conn
	wire *moodyWire

	mu    sync.Mutex
	said  int // bytes, by all apps
	pings int // queued
}

func newCrew(t *testing.T) *crew {
	w := &moodyWire{ended: make(map[uint32]bool)}
	c := newConn(true, w, proof{}, &hooks{})
	c.peerWindow, c.writer.window = 5000, 6000
	w.grant = func(id uint32, n int) {
		c.mu.Lock()
		s := c.streams[id]
		c.mu.Unlock()
		if s != nil {
			soon(func() { c.writer.allow(s, n) })
		}
		soon(func() { c.writer.allowAll(n) })
	}
	return &crew{t: t, c: c, wire: w}
}

// quietAfter waits for all, and reports whether all was written then.
func (cr *crew) quietAfter(all *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	pass(time.Second)
	cr.mu.Lock()
	said, pings := cr.said, cr.pings
	cr.mu.Unlock()
	cr.wire.mu.Lock()
	data, heard := cr.wire.data, cr.wire.pings
	cr.wire.mu.Unlock()
	stuck := false
	select {
	case <-done:
	default:
		stuck = true
	}
	if !stuck && data == said && heard == pings && !cr.c.writer.busy() {
		return true
	}
	cr.t.Errorf("%d of %d PINGs and %d of %d bytes were written; a writer at work: %v, somebody stuck: %v",
		heard, pings, data, said, cr.c.writer.busy(), stuck)
	cr.c.abort(errLost) // so that nobody waits any longer
	<-done
	return false
}

// talk queues a frame that is no stream's.
func (cr *crew) talk() {
	ping := func(b []byte) []byte { return h2.AppendPing(b, 0, [8]byte{}) }
	cr.mu.Lock()
	cr.pings++
	cr.mu.Unlock()
	switch rand.N(3) {
	case 0:
		cr.c.writer.say(ping)
	case 1:
		cr.c.writer.queue(ping)
		cr.c.writer.wake()
	default:
		cr.c.writer.queue(ping)
		cr.c.writer.run()
	}
}

// read is a step of the tunnel's reader, which writes at its end what was queued meanwhile.
func (cr *crew) read() {
	cr.c.writer.handling.Store(true)
	moment()
	cr.c.handled()
}

// crewApp is a stream whose app says something now and then.
type crewApp struct {
	crew *crew
	s    *Stream
	near uintptr
	far  int
}

func (cr *crew) app() *crewApp {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		cr.t.Fatal(err)
	}
	cr.t.Cleanup(func() { syscall.Close(fds[0]); syscall.Close(fds[1]) })
	cr.c.mu.Lock()
	defer cr.c.mu.Unlock()
	s := newStream(cr.c, cr.c.nextID, dbAddr)
	cr.c.nextID += 2
	s.accepted, s.gotEnd, s.told = true, true, true // so that it is over with its last frame
	s.toApp.become(receiverTold)
	return &crewApp{crew: cr, s: s, near: uintptr(fds[0]), far: fds[1]}
}

func (a *crewApp) speak() {
	n, err := syscall.Write(a.far, make([]byte, 1+rand.N(9000)))
	if err != nil {
		a.crew.t.Error(err)
		return
	}
	a.crew.mu.Lock()
	a.crew.said += n
	a.crew.mu.Unlock()
	a.s.serve(a.near)
}

// finish is all that an app says that says little.
func (a *crewApp) finish() {
	moment()
	a.speak()
	syscall.Shutdown(a.far, syscall.SHUT_WR)
	moment()
	a.s.serve(a.near)
	<-a.s.done
	if !a.crew.wire.hasEnd(a.s.id) {
		a.crew.t.Errorf("stream %d is proven before its last frame was written", a.s.id)
	}
}

// moment is now, or soon. Many of them end together: then the scheduler decides.
func moment() { time.Sleep(rand.N[time.Duration](5) * time.Millisecond) }

func soon(f func()) { time.AfterFunc(rand.N[time.Duration](20)*time.Millisecond, f) }

// moodyWire takes a batch at once, after a moment, or only by Finish. It notes which
// frames it took, and grants the windows that they used up some time later.
type moodyWire struct {
	nowhere
	grant func(id uint32, n int)
	begun []byte

	mu      sync.Mutex
	unread  []byte
	written uint64
	pings   int
	data    int
	ended   map[uint32]bool // by END_STREAM or RST_STREAM

	late       int // frames of streams that had ended
	unanswered int // bytes that came before the answer to SETTINGS
	answered   bool
}

func (w *moodyWire) Begin(b *record.Batch) (bool, error) {
	for p := range b.Plaintext() {
		w.begun = append(w.begun, p...)
	}
	moment()
	if rand.N(2) == 0 {
		return false, nil
	}
	return true, w.Finish()
}

func (w *moodyWire) Finish() error {
	moment()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written += uint64(len(w.begun))
	w.unread, w.begun = append(w.unread, w.begun...), w.begun[:0]
	for w.next() {
	}
	return nil
}

// next takes a frame off unread, if there is a whole one; mu is held.
func (w *moodyWire) next() bool {
	if len(w.unread) < h2.FrameHeaderSize {
		return false
	}
	size := h2.FrameHeaderSize + int(w.unread[0])<<16 + int(w.unread[1])<<8 + int(w.unread[2])
	if len(w.unread) < size {
		return false
	}
	kind, flags, id := h2.Kind(w.unread[3]), w.unread[4], binary.BigEndian.Uint32(w.unread[5:])
	w.unread = w.unread[size:]
	if kind == h2.KindData && w.ended[id] {
		w.late++
	}
	switch n := size - h2.FrameHeaderSize; {
	case kind == h2.KindReset:
		w.ended[id] = true
	case kind == h2.KindSettings && flags&h2.FlagAck != 0:
		w.answered = true
	case kind == h2.KindPing:
		w.pings++
	case kind == h2.KindData && flags&h2.FlagEndStream != 0:
		w.ended[id] = true
	case kind == h2.KindData:
		w.data += n
		if !w.answered {
			w.unanswered += n
		}
		go w.grant(id, n)
	}
	return true
}

func (w *moodyWire) hasEnd(id uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[id]
}

func (w *moodyWire) Written() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}
