// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workers"
)

// conn is one tunnel, of either role. Its reader is run; whoever has something
// to send writes (writer.go).
type conn struct {
	client        bool
	wire          wire
	peer          spiffeid.ID
	payer         spiffeid.ID // for whom what the peer uses is counted: see payerOf
	unawaited     bool        // server: nobody of the peer's trust domain would be let in when it came
	local, remote netip.AddrPort
	cipher        uint16
	group         tls.CurveID
	serial        string // of the certificate by which the peer proved itself
	idleTimeout   time.Duration
	streamLimit   int // of streams opened by the client
	hooks         *hooks
	begun         time.Time   // client: its dial
	heard         atomic.Bool // a byte came since the last tick
	quiet         atomic.Bool // no stream since the last tick, or ever

	reading        // the reader's alone
	writer  writer // has a mutex of its own

	mu        sync.Mutex // guards all below, and the fields that Stream says
	err       error      // why it ended
	streams   map[uint32]*Stream
	fallen    *Stream   // the last that ended out of order; unlock cuts the apps of all such off
	active    int       // streams that count against the limit: not closed on both sides
	live      int       // streams that a Listener's user has not let go
	nextID    uint32    // client: of the next stream
	lastPeer  uint32    // server: highest id that the peer opened
	request   []byte    // client: the last header block, whose memory is the next one's
	until     time.Time // end of the certificates that opened it, by the roots of now; zero: never
	grounds   grounds
	retired   bool           // takes no new streams
	tolerance *tolerance     // server: of the peer
	dismissed bool           // server: asked to make room for others; Census.mu guards it
	stale     bool           // server: made with credentials that were replaced meanwhile
	settled   bool           // the peer's first SETTINGS came
	resting   socket.Ticket  // of the last rest
	empty     chan struct{}  // closed with the last stream, if somebody waits for that
	ended     sync.WaitGroup // for when nothing of it is left

	peerWindow int  // of a new stream, in which we send
	broken     bool // nothing can be written any more, as a write failed or the tunnel is lost
	receiving
	rtt    roundTrip
	memory *Memory // of the pod
	clock
	leave
	acknowledging
	load
	room
	pulse
	guarding
}

// reading is the state of a tunnel's reader.
type reading struct {
	in      h2.Parser
	headers *h2.Decoder    // nil until the first block
	block   []byte         // header block so far
	opening h2.FrameHeader // the HEADERS frame that began it
	partial

	prefaced    int  // bytes of the client's preface that came
	settledSeen bool // and the first SETTINGS behind it
	young       bool // since then firstRest is not over: that is the read deadline
	dataSeen    int  // of the DATA frame under way

	current    *Stream // of the DATA frame under way, or nil
	unclaimed  int     // bytes of that frame not yet seen as data: in the end, its padding
	touched    []*Stream
	emptyData  int
	pings      rate.Left
	settings   rate.Left
	refusals   rate.Left
	noise      rate.Left
	earlyReset rate.Left
	asks       rate.Left
}

// receiving is what the peer may still send.
type receiving struct {
	window    int       // in the whole tunnel
	limit     int       // of window, when all was granted
	grantedAt time.Time // when it last was
	held      int       // bytes queued for apps that do not read
	ghost     int       // DATA still allowed on streams that we reset, as the peer may not know it yet
	faults    rate.Left
}

// hooks tell the Pool or Listener that made the tunnel of its turns. They are
// called without conn.mu. A nil one is not called.
type hooks struct {
	work      *sync.WaitGroup    // counts the tunnel while it runs; required
	workers   *workers.Pool      // ends streams; nil: each in a new goroutine
	incoming  func(*Stream) bool // a request came; false refuses it
	refused   func(*conn, error) // a request came that was answered or reset here
	proven    func(*conn)        // the peer's first frame came, so it accepted our certificate
	move      func(*conn)        // what is open is wanted in a younger tunnel from now on
	moveAgain func(*conn)        // it still is, at a tick: the dial may have failed
	renew     func(*conn)        // the deadline is near, and streams are open
	gone      func(*conn)        // nothing of it is left
}

func newConn(client bool, w wire, proof proof, h *hooks) *conn {
	c := &conn{
		client: client, wire: w, hooks: h,
		rtt: proof.rtt, peer: proof.peer, payer: proof.peer, local: proof.local, remote: proof.remote, until: proof.until, cipher: proof.cipher, group: proof.group, serial: proof.serial,
		nextID: 1,
	}
	limit := h2.ServerHeaderLimit
	if client {
		limit = h2.ClientHeaderLimit
	}
	c.in.HeaderLimit = limit
	c.peerWindow = h2.DefaultWindow
	c.writer.c, c.writer.window, c.writer.peerFrame = c, h2.DefaultWindow, h2.DefaultFrameLimit
	c.writer.pace = startPace(&c.rtt)
	c.room.peerStreams = h2.WindowLimit
	c.receiving.window, c.receiving.limit = h2.DefaultWindow, tunnelWindow
	c.grounds.own, c.grounds.denied = proof.again, proof.denied
	c.clock.deadline = proof.until
	c.quiet.Store(true)
	c.ended.Add(1)
	return c
}

// greet says what each side says first: a client at once, since its peer waits for it, a
// server in run. Nothing waits for the answer: until the peer's SETTINGS come, the defaults
// of RFC 9113 hold.
func (c *conn) greet() {
	c.writer.handling.Store(!c.client)
	c.mu.Lock()
	defer c.unlock()
	c.receiving.window = tunnelWindow
	c.startClock()
	c.writer.say(func(b []byte) []byte {
		first := h2.Setting{ID: h2.SettingMaxStreams, Value: uint32(c.streamLimit)}
		if c.client {
			b = append(b, h2.Preface...)
			first = h2.Setting{ID: h2.SettingEnablePush, Value: 0}
		}
		b = h2.AppendSettings(b, first, h2.Setting{ID: h2.SettingWindow, Value: streamWindow},
			h2.Setting{ID: h2.SettingFrameSize, Value: h2.FrameLimit}, h2.Setting{ID: h2.SettingHeaderList, Value: uint32(c.in.HeaderLimit)})
		return h2.AppendWindowUpdate(b, 0, tunnelWindow-h2.DefaultWindow)
	})
}

// takesStreams reports whether a stream may be opened; mu is held.
func (c *conn) takesStreams() bool {
	return c.err == nil && !c.retired && !c.broken &&
		c.active < min(c.streamLimit, c.peerStreams) && c.nextID < streamIDLimit && !c.outdated() && !c.writer.crammed()
}

// outdated reports that the tunnel's own certificates have run out. Open
// streams may live on behind a younger tunnel's, new ones must use that.
func (c *conn) outdated() bool { return !c.until.IsZero() && !time.Now().Before(c.until) }

// reserve opens a stream if the tunnel takes one. The CONNECT is queued, in
// the order of the ids; the caller runs the writer.
func (c *conn) reserve(t Target) *Stream {
	c.mu.Lock()
	defer c.unlock()
	if !c.takesStreams() {
		return nil
	}
	s := newStream(c, c.nextID, t.Authority)
	c.nextID += 2
	c.request = h2.AppendConnect(c.request[:0], t)
	c.writer.queueBlock(s.id, 0, c.request)
	return s
}

// fail ends the tunnel for err and with it all streams that need it. With a
// tunnelError, or none of the peer's fault, the peer is told by GOAWAY.
func (c *conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.unlock()
}

// abort is fail that spares no stream, not even one that is only waiting for a
// slow app to take what already came, and that waits for little longer.
func (c *conn) abort(err error) {
	c.mu.Lock()
	c.failLocked(err)
	for _, s := range c.streams {
		c.end(s, err)
	}
	if c.aborted == nil {
		c.aborted = err
	}
	c.cutOff(err, hangUpTimeout)
	c.unlock()
}

// failLocked is fail with mu held.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.takesNoMore()
	c.stopClock()
	c.loseGuards(err)
	for _, s := range c.streams {
		if !s.closed() {
			c.end(s, c.streamError(s, err))
		}
	}
	c.stirred = time.Now()
	code, reason := h2.CodeNone, ""
	var bad *tunnelError
	switch {
	case errors.As(err, &bad):
		code, reason = bad.Code, bad.Reason
		c.cutOff(err, hangUpTimeout) // a peer that breaks the rules is not waited for
	case errors.Is(err, errLost):
		c.broken = true
		c.writer.breakOff()
	case errors.Is(err, ErrDenied): // or the peer would move its Guards to another tunnel
		code = h2.CodeSecurity
	}
	// The reader stays to take what is in flight (departure): a socket closed
	// with unread bytes is reset, and the reset would overtake our GOAWAY.
	c.hurry()
	c.writer.sayLast(func(b []byte) []byte { return h2.AppendGoAway(b, c.lastPeer, code, reason) })
}

// streamError is how a stream ends that loses its tunnel by err. Before the
// answer it may be opened anew, if no byte of the app was sent early; but not if
// the tunnel never worked. mu is held.
func (c *conn) streamError(s *Stream, err error) error {
	if c.client && c.settled && !s.accepted && s.sent.Load() == 0 && errors.Is(err, errLost) {
		return &notTaken{err: err}
	}
	return err
}

// errLost marks the end of a tunnel on which nothing can be said any more.
var errLost = errors.New("tunnel lost")

// lost is the error of a tunnel whose socket ended or broke.
func (c *conn) lost(err error) error {
	c.mu.Lock()
	defer c.unlock()
	if c.client && !c.settled {
		// With TLS 1.3 a client is done before the server has looked at
		// its certificate: a refusal looks like this.
		return &shownError{fmt.Errorf("%w: %w: peer %v ended the tunnel before its first frame: %v", ErrTLS, errLost, c.remote, err)}
	}
	if !c.deadline.IsZero() && time.Until(c.deadline) < hangUpTimeout {
		return fmt.Errorf("%w: %w: certificates of the tunnel to %v ran out", ErrExpired, errLost, c.remote) // the peer noticed first
	}
	if c.barred {
		return &shownError{fmt.Errorf("%w: %w: peer %v said %s", ErrDenied, errLost, c.remote, c.goodbye)}
	}
	if c.goodbye != "" {
		return fmt.Errorf("%w: %w: peer %v said %s", ErrReset, errLost, c.remote, c.goodbye)
	}
	return fmt.Errorf("%w: %w: peer %v: %v", ErrReset, errLost, c.remote, err)
}

// unlock releases mu. What ended while it was held is told then: a retired tunnel
// ends with its last stream, and the apps of streams that were broken off are
// cut off, for which mu must not be held. Whatever may have ended a stream unlocks by it.
func (c *conn) unlock() {
	if c.retired && c.err == nil && c.unused() && !c.owesGoAway() {
		c.failLocked(ErrDrained)
	}
	fallen := c.fallen
	c.fallen = nil
	c.mu.Unlock()
	for fallen != nil {
		s := fallen
		fallen, s.fellBefore = s.fellBefore, nil
		s.sever()
	}
}

// retire closes the tunnel to new streams; open ones go on. A server tells
// the client, so that it opens a younger tunnel.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.unlock()
	if !c.retired {
		c.retireLocked()
	}
}

// retireAgain is retire that has a server tell the client again.
func (c *conn) retireAgain() {
	c.mu.Lock()
	defer c.unlock()
	c.retireLocked()
}

// retireLocked is retireAgain; mu is held.
func (c *conn) retireLocked() {
	if c.err != nil {
		return
	}
	c.takesNoMore()
	if !c.client {
		c.goAway()
	}
}

// wait returns when no stream is left.
func (c *conn) wait() {
	c.mu.Lock()
	if len(c.streams) == 0 {
		c.unlock()
		return
	}
	empty := make(chan struct{})
	c.empty = empty
	c.unlock()
	<-empty
}

// count is the number of open streams.
func (c *conn) count() int {
	c.mu.Lock()
	defer c.unlock()
	return len(c.streams)
}
