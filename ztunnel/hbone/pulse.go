// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// pulse is whether a tunnel seems alive to a Pool. One that was not heard lately
// may be dead: the peer has restarted, or something on the way forgot the
// connection. Then a PING goes with the CONNECT, and nothing that an app says goes
// before something comes back. conn.mu guards it.
type pulse struct {
	heardAt time.Time     // when something last came
	askedAt time.Time     // when a PING was sent, if nothing came since; else zero
	beat    chan struct{} // closed with what comes next, if somebody waits for it
}

// freshly is how long a sign of life counts: also for Guards, whose tunnel may be
// cut by a NetworkPolicy, which the next of them is to notice and not only the end
// of the tunnel. It is the time, too, in which such a sign must come, where the way
// is not long.
const freshly = time.Second

// fresh reports that the tunnel was heard lately; mu is held.
func (c *conn) fresh() bool { return time.Since(c.heardAt) < freshly }

// beats notes that something came; mu is held.
func (c *conn) beats() {
	c.heardAt, c.askedAt = time.Now(), time.Time{}
	if c.beat != nil {
		close(c.beat)
		c.beat = nil
	}
}

// ask queues a PING, unless one is under way; mu is held.
func (c *conn) ask() {
	if c.askedAt.IsZero() {
		c.askedAt = time.Now()
		c.control = h2.AppendPing(c.control, 0, [8]byte{})
	}
}

// proven returns when the stream's tunnel has shown that it is alive. It reports
// false if there is nothing to wait for any more, or too much: until the peer's
// first frame nobody knows whether it accepts us.
func (s *Stream) proven() bool {
	c := s.c
	c.mu.Lock()
	if s.over || s.accepted || !c.settled || c.fresh() {
		defer c.unlock()
		return !s.over && !s.accepted && c.settled
	}
	c.ask()
	if c.beat == nil {
		c.beat = make(chan struct{})
	}
	beat := c.beat
	c.flushUnlocking()
	c.unlock()
	select {
	case <-beat:
		return true
	case <-s.answered:
	case <-s.done:
	}
	return false
}

// watch looks after a stream that waits for its answer until the returned timer is
// stopped: whether it has waited long enough, and whether its tunnel is alive.
func (s *Stream) watch(patience time.Duration) *time.Timer {
	until := time.Now().Add(patience)
	s.c.mu.Lock()
	defer s.c.unlock()
	s.watcher = time.AfterFunc(min(freshly, patience), func() { s.look(patience, until) })
	return s.watcher
}

func (s *Stream) look(patience time.Duration, until time.Time) {
	c, now := s.c, time.Now()
	c.mu.Lock()
	if s.accepted || s.over {
		c.unlock()
		return
	}
	left := until.Sub(now)
	if left <= 0 {
		c.unlock()
		s.giveUp(fmt.Errorf("none in %v", patience))
		return
	}
	c.examine(now)
	s.watcher.Reset(min(freshly, left))
	c.unlock()
}

// examine asks a tunnel that is silent while somebody waits for an answer, and
// gives it up when it stays silent, or takes nothing; mu is held.
func (c *conn) examine(now time.Time) {
	switch {
	case !c.settled: // it has until settingsTimeout
	case c.stuckFor(now) >= stuckPause:
		c.abandon(fmt.Errorf("%w: %v takes nothing", ErrDial, c.remote))
	case c.fresh():
	case c.rtt.unread(): // it is we who are late
	case c.askedAt.IsZero():
		c.ask()
		c.kick()
	case now.Sub(c.askedAt) >= max(freshly, 4*c.rtt.shortest(now)):
		c.abandon(fmt.Errorf("%w: %v does not answer PING", ErrDial, c.remote))
	}
}

// abandon retires a tunnel that seems dead. What was answered may live on if it is
// not. What was not, and of whose app nothing was sent, is opened anew, all in one
// fresh tunnel; mu is held.
func (c *conn) abandon(why error) {
	c.takesNoMore()
	for _, s := range c.streams {
		if !s.accepted && s.sent.Load() == 0 {
			c.reset(s, h2.CodeCancel, &notTaken{err: why})
		}
	}
}
