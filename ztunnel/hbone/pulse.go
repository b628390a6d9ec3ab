// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// pulse is whether a tunnel seems alive to a Pool. One that was not heard lately
// may be dead: the peer has restarted, or something on the way forgot the
// connection. Then a PING goes with the CONNECT, and nothing that an app says goes
// before something comes back. conn.mu guards it.
type pulse struct {
	heardAt   time.Time     // when something last came
	askedAt   time.Time     // when a PING was sent, if nothing came since; else zero
	beat      chan struct{} // closed with what comes next, if somebody waits for it
	abandoned error         // why the tunnel was abandoned; nil: it was not
}

// freshly is how long a sign of life counts: also for Guards, whose tunnel may be
// cut by a NetworkPolicy, which the next of them is to notice and not only the end
// of the tunnel. It is the time, too, in which such a sign must come, where the way
// is not long.
const freshly = time.Second

// deadAfter is how many times longer than an abandoned tunnel one is silent that is
// taken to be dead: 5 s, in which TCP has tried again four times.
const deadAfter = 5

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
		c.askWith([8]byte{})
	}
}

// askWith queues a PING with data of its own; mu is held.
func (c *conn) askWith(data [8]byte) {
	if c.askedAt.IsZero() {
		c.askedAt = time.Now()
	}
	c.writer.queue(func(b []byte) []byte { return h2.AppendPing(b, 0, data) })
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
	c.unlock()
	c.writer.run()
	select {
	case <-beat:
		return true
	case <-s.answered:
	case <-s.done:
	}
	return false
}

// watch looks after a stream that waits for its answer until the returned timer is
// stopped: whether it has waited long enough, and whether its tunnel is alive. The
// stream does not keep the timer, which it needs no more when it has its answer.
func (s *Stream) watch(patience time.Duration) *time.Timer {
	c, until := s.c, time.Now().Add(patience)
	c.mu.Lock()
	defer c.unlock()
	var watcher *time.Timer // conn.mu guards it
	watcher = time.AfterFunc(min(freshly, patience), func() {
		c.mu.Lock()
		defer c.unlock()
		if again := s.look(patience, until); again > 0 {
			watcher.Reset(again)
		}
	})
	return watcher
}

// look returns when to look again, or zero if the stream needs no watching any more;
// conn.mu is held.
func (s *Stream) look(patience time.Duration, until time.Time) time.Duration {
	c, now := s.c, time.Now()
	left := until.Sub(now)
	switch {
	case s.accepted || s.over:
		return 0
	case left <= 0:
		c.reset(s, h2.CodeCancel, &NoAnswerError{s.target, fmt.Errorf("none in %v", patience)})
		return 0
	}
	c.examine(now)
	return min(c.nextLook(now), left)
}

// attend waits for event, which only the peer can cause, and examines the tunnel
// meanwhile. If the tunnel is abandoned, whoever closes event must do so then. The
// error is why ctx ended before.
func (c *conn) attend(ctx context.Context, event <-chan struct{}) error {
	for {
		c.mu.Lock()
		now := time.Now()
		c.examine(now)
		look := time.NewTimer(c.nextLook(now))
		c.unlock()
		select {
		case <-event:
			look.Stop()
			return nil
		case <-ctx.Done():
			look.Stop()
			return context.Cause(ctx)
		case <-look.C:
		}
	}
}

// nextLook is how long after now examine may find something new; mu is held.
func (c *conn) nextLook(now time.Time) time.Duration {
	if left := freshly - now.Sub(c.heardAt); left > 0 {
		return left
	}
	return freshly
}

// examine asks a tunnel that is silent while somebody waits for an answer, and
// abandons it when it stays silent, or takes nothing. If it is silent for much longer,
// and not even the peer's kernel was heard, it is dead for all that is not answered: on
// a slow path the PING may only wait behind other bytes. mu is held.
func (c *conn) examine(now time.Time) {
	patience := max(freshly, 4*c.rtt.shortest(now))
	silent := c.silentFor(now)
	switch {
	case !c.settled: // it has until settingsTimeout
	case c.stuckFor(now) >= stuckPause:
		c.abandon(fmt.Errorf("%w: %v takes nothing", ErrDial, c.remote))
	case c.fresh():
	case c.rtt.unread(): // it is we who are late
	case c.askedAt.IsZero():
		c.ask()
		c.writer.wake()
	case silent >= patience:
		c.abandon(fmt.Errorf("%w: %v does not answer PING", ErrDial, c.remote))
	}
	if dead := deadAfter * patience; c.settled && silent >= dead && c.rtt.acknowledged() >= dead {
		c.endUnanswered(fmt.Errorf("nor to PING in %v", silent.Round(time.Second)))
	}
}

// silentFor is how long the tunnel has not answered PING, nor said anything else; mu
// is held.
func (c *conn) silentFor(now time.Time) time.Duration {
	if c.askedAt.IsZero() || c.rtt.unread() {
		return 0
	}
	return now.Sub(c.askedAt)
}

// abandon retires a tunnel that seems dead. What was answered may live on if it is
// not, and Guards are given elsewhere. What was not answered, and of whose app nothing
// was sent, is opened anew, all in one fresh tunnel; mu is held.
func (c *conn) abandon(why error) {
	c.abandoned = why
	c.takesNoMore()
	c.stopAsking()
	for _, s := range c.streams {
		if !s.accepted && s.sent.Load() == 0 {
			c.reset(s, h2.CodeCancel, &notTaken{err: why})
		}
	}
}

// endUnanswered ends the streams that abandon had to leave where they are: something
// of their apps was sent, and the peer may have got it. Their apps are not kept waiting
// for a tunnel that is dead; mu is held.
func (c *conn) endUnanswered(why error) {
	for _, s := range c.streams {
		if !s.accepted {
			c.reset(s, h2.CodeCancel, &NoAnswerError{s.target, why})
		}
	}
}
