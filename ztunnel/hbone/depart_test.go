// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// slowPath is a network of few bytes in a second between a Pool and a Listener,
// which holds next to nothing itself: what is on its way is in the sender's kernel.
type slowPath struct {
	t    testing.TB
	rate int         // bytes in a second; 0: as they come
	held atomic.Bool // nothing gets through, for now

	mu   sync.Mutex
	gone bool
	ends []*net.TCPConn
	work sync.WaitGroup
}

const (
	slowPathBuffer = 8 << 10
	lastBytes      = 48 << 10 // less than a stream's first window
)

// newSlowLink is a newPipe over a slow path.
func newSlowLink(t testing.TB, rate int) (*link, <-chan *app, *slowPath) {
	l, far := newPipe(t)
	p := &slowPath{t: t, rate: rate}
	l.pool.cfg.Dial = func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		near, middle := socketPair(t)
		beyond, err := dialTCP(ctx, to)
		if err != nil {
			return nil, err
		}
		p.join(middle, beyond)
		return near, nil
	}
	t.Cleanup(func() { p.cut(); p.work.Wait() })
	return l, far, p
}

func (p *slowPath) join(a, b *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, a, b)
	if p.gone {
		resetSocket(a)
		resetSocket(b)
		return
	}
	for _, end := range []*net.TCPConn{a, b} {
		end.SetReadBuffer(slowPathBuffer)
		end.SetWriteBuffer(slowPathBuffer)
	}
	p.work.Go(func() { p.carry(a, b) })
	p.work.Go(func() { p.carry(b, a) })
}

// carry moves one direction. A reset comes through as a reset, a FIN as a FIN.
func (p *slowPath) carry(to, from *net.TCPConn) {
	buf := make([]byte, slowPathBuffer/2)
	for {
		for p.held.Load() {
			time.Sleep(time.Millisecond)
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				resetSocket(from)
				return
			}
			if p.rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(p.rate))
			}
		}
		switch {
		case err == io.EOF:
			to.CloseWrite()
			return
		case err != nil:
			resetSocket(to)
			return
		}
	}
}

// cut has the path reset all connections, and those to come.
func (p *slowPath) cut() {
	p.held.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	for _, end := range p.ends {
		resetSocket(end)
	}
}

// Whoever ends the tunnel, and however long the last bytes take: they arrive.
func TestTheLastBytesArriveHoweverTheTunnelEnds(t *testing.T) {
	for _, row := range []struct {
		name   string
		upload bool
		end    func(*link)
	}{
		{"the Listener's rotation", false, func(l *link) { l.ln.Retire(Rotated) }},
		{"the Pool's rotation", true, func(l *link) { l.pool.Retire(Rotated) }},
		{"the Listener's drain", false, func(l *link) { l.ln.Drain(context.Background()) }},
		{"the Pool's drain", true, func(l *link) { l.pool.Drain(context.Background()) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l, far, p := newSlowLink(t, 100<<10)
			a, b := l.open(), <-far
			from, to := b, a
			if row.upload {
				from, to = a, b
			}
			to.CloseWrite()
			from.wantEOF()
			p.held.Store(true)
			from.s.c.holds(4 * lastBytes)
			data := pattern(7, lastBytes)
			from.do(from.Write(data))
			from.CloseWrite()
			waitUntil(t, from.s.isOver)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				row.end(l)
			}()
			time.AfterFunc(hangUpTimeout*5/2, func() {
				to.s.c.tick() // it speaks, which a closed socket answers with a reset
				p.held.Store(false)
			})
			to.SetReadDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(to)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
			}
			for _, app := range []*app{a, b} {
				if r := app.wait(t); r.err != nil {
					t.Errorf("Carry: %v", r.err)
				}
			}
			<-ended
			waitUntil(t, func() bool { return a.s.c.isClosed() && b.s.c.isClosed() })
		})
	}
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// holds gives the tunnel's socket room for so many bytes that cannot be sent.
func (c *conn) holds(n int) {
	c.rtt.socket.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n) })
}

// handOver has an app say its last words on a path that lets nothing through, and
// returns when its stream has nothing more to do.
func handOver(t *testing.T) (*link, *app, *slowPath) {
	l, far, p := newSlowLink(t, 0)
	a, b := l.open(), <-far
	a.CloseWrite()
	b.wantEOF()
	p.held.Store(true)
	b.s.c.holds(4 * lastBytes)
	b.do(b.Write(pattern(8, lastBytes)))
	b.CloseWrite()
	waitUntil(t, b.s.isOver)
	select {
	case r := <-b.result:
		t.Fatalf("Carry returned before anything arrived: %v", r.err)
	case <-time.After(5 * proofPause): // it would at once
	}
	return l, b, p
}

func TestCarryReturnsWhenTheLastBytesHaveArrived(t *testing.T) {
	_, b, p := handOver(t)
	before := time.Now()
	p.held.Store(false)
	if r := b.wait(t); r.err != nil {
		t.Error(r.err)
	}
	if !b.s.Ended().Before(before) {
		t.Error("the stream counts as open until then")
	}
}

func TestNoStreamEndsInOrderWhoseLastBytesWereLost(t *testing.T) {
	_, b, p := handOver(t)
	p.cut()
	if r := b.wait(t); !errors.Is(r.err, ErrReset) {
		t.Errorf("Carry: %v", r.err)
	}
}

// A drain that is over does not wait, and does not say that all is well.
func TestNoStreamEndsInOrderThatADrainCutShort(t *testing.T) {
	l, b, _ := handOver(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.ln.Drain(ctx)
	if r := b.wait(t); !errors.Is(r.err, ErrDrained) {
		t.Errorf("Carry: %v", r.err)
	}
}

func TestWhoClosesAStreamThatIsOnItsWaySaysWhy(t *testing.T) {
	_, b, _ := handOver(t)
	b.s.Close(ErrDenied)
	if r := b.wait(t); !errors.Is(r.err, ErrDenied) {
		t.Errorf("Carry: %v", r.err)
	}
}

// A peer that has answered and wants no more (RFC 9113 §8.1) has the app told so
// in the end, but first its answer: a socket closed with something unread is reset,
// and what it has yet to send is lost.
func TestAnAnswerReachesAnAppThatIsStillSending(t *testing.T) {
	answer := pattern(9, 150<<10)
	l := greetedServer(t, func(p *rawPeer) {
		p.until(is[*http2.MetaHeadersFrame])
		p.must(p.writeHeaders(1, false, ":status", "200"))
		window := streamWindow
		for rest := answer; len(rest) > 0; {
			n := min(len(rest), 16<<10)
			for window < n {
				f := p.until(is[*http2.WindowUpdateFrame]).(*http2.WindowUpdateFrame)
				if f.StreamID == 1 {
					window += int(f.Increment)
				}
			}
			p.must(p.WriteData(1, n == len(rest), rest[:n]))
			rest, window = rest[n:], window-n
		}
		p.must(p.WriteRSTStream(1, http2.ErrCodeNo))
		p.find(func(http2.Frame) bool { return false })
	})
	s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	near, end := socketPair(t)
	end.SetReadBuffer(32 << 10)
	a := carryOn(t, s, near, end)
	a.write("more than the peer wants")
	go func() {
		for err := error(nil); err == nil; {
			_, err = a.Write(make([]byte, 1000))
		}
	}()
	waitUntil(t, a.s.isOver)
	got, _ := io.ReadAll(a) // a reset may end it
	if !bytes.Equal(got, answer) {
		t.Errorf("%d bytes of %d", len(got), len(answer))
	}
	if r := a.wait(t); r.err != nil {
		t.Errorf("Carry: %v", r.err)
	}
}

func (s *Stream) isOver() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.over
}

// A peer that takes nothing more must not keep a tunnel for ever.
func TestATunnelThatGetsNothingOnIsClosedAfterAWhile(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		go func() {
			io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
			p.alone(func() error { return p.WriteSettings() })
			p.until(is[*http2.MetaHeadersFrame])
			p.writeHeaders(1, false, ":status", "200")
		}() // and reads nothing
		s, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c := s.c
		c.writer.say(func(b []byte) []byte { return h2.AppendPing(b, 0, [8]byte{}) }) // whose write waits
		synctest.Wait()
		c.mu.Lock()
		s.gotEnd, s.told = true, true
		c.sentEnd(s)
		c.mu.Unlock()
		b.pool.Retire(Rotated)
		pass(socket.Standstill - time.Second)
		wantOpen(t, s)
		pass(2 * time.Second)
		wantEnd(t, s, ErrReset)
		if n := b.pool.Stats().Tunnels; n != 0 {
			t.Errorf("%d tunnels", n)
		}
	})
}

// A slow app may have taken the last bytes of a stream just while the tunnel that it
// no longer needs says goodbye.
func TestAStreamThatEndsWhileItsTunnelSaysGoodbyeEndsInOrder(t *testing.T) {
	c := newConn(true, nowhere{}, proof{peer: serverID}, &hooks{})
	c.mu.Lock()
	s := newStream(c, 1, dbAddr)
	s.accepted, s.gotEnd = true, true
	c.writer.leading = true
	c.sentEnd(s)
	c.writer.over = true // as endLeadUnlocking leaves it
	s.told = true
	c.arrive(s)
	c.mu.Unlock()
	c.writer.sayGoodbye()
	c.depart()
	if err := s.result(); err != nil {
		t.Error(err)
	}
}

// tardyWire counts what its socket took when the write has returned, as every wire does.
type tardyWire struct {
	nowhere
	counted atomic.Uint64
}

func (w *tardyWire) Written() uint64 { return w.counted.Load() }

// A connection may break between the kernel's taking bytes and the count of them.
func TestAStreamIsProvenThoughTheTunnelBreaksInTheMidstOfAWrite(t *testing.T) {
	near, far := socketPair(t)
	wire := &tardyWire{}
	c := newConn(true, wire, proof{peer: serverID, rtt: tune(near)}, &hooks{})
	last := []byte("the last bytes of a stream")
	near.Write(last)
	io.ReadFull(far, make([]byte, len(last)))
	wire.counted.Store(uint64(len(last)))
	c.mu.Lock()
	s := newStream(c, 1, dbAddr)
	s.accepted, s.gotEnd, s.told = true, true, true
	c.sentEnd(s)
	c.err, c.broken, c.stirred = errLost, true, time.Now()
	c.mu.Unlock()

	c.writer.leading, c.writer.over = true, true
	near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	lost, _ := near.Write(make([]byte, 64<<20)) // of another stream
	far.SetLinger(0)
	far.Close()
	time.AfterFunc(20*time.Millisecond, func() {
		wire.counted.Add(uint64(lost))
		c.writer.mu.Lock()
		defer c.writer.mu.Unlock()
		c.writer.leading = false
	})
	c.depart()
	if err := s.result(); err != nil {
		t.Error(err)
	}
}
