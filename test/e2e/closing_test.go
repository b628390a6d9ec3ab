// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// ends are the two ends of a connection; first is the one that acts first.
type ends struct {
	name          string
	first, second *agent.Conn
	to            netip.AddrPort
}

// bothEnds makes a connection for each end to be the first.
func (p *path) bothEnds() []ends {
	p.Helper()
	near, far, to := p.connected()
	near2, far2, to2 := p.connected()
	return []ends{{"client", near, far, to}, {"server", far2, near2, to2}}
}

func TestOneEndMayFinishLongBeforeTheOther(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		for _, e := range p.bothEnds() {
			const size = 1 << 20
			p.finishesFirst(e, size)
			fromClient, fromServer := int64(len("that is all")), int64(size)
			if e.name == "server" {
				fromClient, fromServer = fromServer, fromClient
			}
			p.carried(e.to, fromClient, fromServer)
		}
	})
}

// finishesFirst has an end finish, and only then the other begin to speak.
func (p *path) finishesFirst(e ends, size int64) {
	p.Helper()
	p.must(e.first.Send(p.ctx, []byte("that is all")))
	p.must(e.first.CloseWrite())
	got, err := readAll(p.ctx, e.second)
	p.must(err)
	if got != "that is all" {
		p.Errorf("the %s said %q and finished", e.name, got)
	}
	group, ctx := errgroup.WithContext(p.ctx)
	group.Go(func() error {
		_, err := e.second.Transfer(ctx, agent.Transfer{Send: size, Seed: 3})
		return err
	})
	answer, err := e.first.Transfer(p.ctx, agent.Transfer{Receive: -1})
	p.must(errors.Join(err, group.Wait()))
	if answer.ReceivedHash != agent.StreamHash(3, size) {
		p.Errorf("the %s, finished, read %d other bytes", e.name, answer.Received)
	}
	p.must(errors.Join(e.first.Close(), e.second.Close()))
}

// readAll reads to the end of data.
func readAll(ctx context.Context, conn *agent.Conn) (string, error) {
	var all []byte
	for {
		b, err := conn.Receive(ctx, 64<<10)
		all = append(all, b...)
		if errors.Is(err, io.EOF) {
			return string(all), nil
		}
		if err != nil {
			return string(all), err
		}
	}
}

func TestAResetIsNotTakenForAnEndOfData(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		for _, when := range []struct {
			name     string
			breakOff func(p *path, e ends) error
		}{
			{"idle", resetIdle},
			{"having sent", resetAfterSending},
			{"while being sent to", resetWhileSentTo},
			{"owing an answer", resetOwingAnswer},
		} {
			for _, e := range p.bothEnds() {
				p.greet(e)
				if err := when.breakOff(p, e); !errors.Is(err, syscall.ECONNRESET) {
					p.Errorf("the %s breaks off %s: the other sees %v, want ECONNRESET", e.name, when.name, err)
				}
				p.ended(e.to, "reset")
			}
		}
	})
}

// greet proves that the connection is up from end to end: one that an app
// resets while its node is still connecting to it was never made.
func (p *path) greet(e ends) {
	p.Helper()
	for _, way := range [][2]*agent.Conn{{e.first, e.second}, {e.second, e.first}} {
		p.must(way[0].Send(p.ctx, []byte("hello")))
		_, err := way[1].ReceiveFull(p.ctx, len("hello"))
		p.must(err)
	}
}

// resetIdle has one end reset a connection on which nothing moves.
func resetIdle(p *path, e ends) error {
	p.must(e.first.Reset())
	_, err := e.second.Receive(p.ctx, 1)
	return err
}

// resetAfterSending has one end reset in the midst of what it would send.
func resetAfterSending(p *path, e ends) error {
	const part = 1 << 20
	_, err := e.first.Transfer(p.ctx, agent.Transfer{Send: part, Seed: 4, Open: true})
	p.must(err)
	_, err = e.second.Transfer(p.ctx, agent.Transfer{Receive: part})
	p.must(err)
	p.must(e.first.Reset())
	got, err := e.second.Transfer(p.ctx, agent.Transfer{Receive: -1})
	if got.Received != 0 {
		p.Errorf("%d bytes that nobody sent", got.Received)
	}
	return err
}

// resetWhileSentTo has one end reset with unread bytes, of a sender that is blocked.
func resetWhileSentTo(p *path, e ends) error {
	group, ctx := errgroup.WithContext(p.ctx)
	group.Go(func() error {
		_, err := e.second.Transfer(ctx, agent.Transfer{Send: 1 << 30, Seed: 5})
		return err
	})
	_, err := e.first.Transfer(p.ctx, agent.Transfer{Receive: 1 << 20})
	p.must(err)
	p.must(e.first.Reset())
	return group.Wait()
}

// resetOwingAnswer has one end reset after the other has finished, and awaits an answer.
func resetOwingAnswer(p *path, e ends) error {
	p.must(e.second.CloseWrite())
	_, err := readAll(p.ctx, e.first)
	p.must(err)
	p.must(e.first.Reset())
	_, err = e.second.Receive(p.ctx, 1)
	return err
}

// An end that answers before it has read all, and closes, resets the connection behind
// its answer: so do web servers that refuse a large request. The answer arrives.
func TestAnAnswerArrivesBeforeTheResetBehindIt(t *testing.T) {
	const times = 10
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		lost := map[string]int{}
		for range times {
			for _, e := range p.bothEnds() {
				p.greet(e)
				if !p.answersAndBreaksOff(e) {
					lost[e.name]++
				}
				p.must(e.second.Close())
			}
		}
		for name, n := range lost {
			p.Errorf("%d of %d answers of the %s are lost", n, times, name)
		}
	})
}

// answersAndBreaksOff has an end answer 10 bytes of 1,000 and close, and reports
// whether the other read all of the answer.
func (p *path) answersAndBreaksOff(e ends) bool {
	p.Helper()
	p.must(e.second.Send(p.ctx, make([]byte, 1000)))
	_, err := e.first.ReceiveFull(p.ctx, 10)
	p.must(err)
	answer := strings.Repeat("no", 750)
	p.must(e.first.Send(p.ctx, []byte(answer)))
	p.must(e.first.Close())
	got, err := readAll(p.ctx, e.second)
	if err == nil {
		p.Errorf("the %s broke off: the other sees an end of data, want a reset", e.name)
	}
	return got == answer
}

// Nobody reads from an end that has finished, and so it is asked from time to
// time whether it is still there: the connections of all paths wait at once.
func TestAFinishedEndThatBreaksOffIsNoticed(t *testing.T) {
	type broken struct {
		ends
		path path
	}
	var all []broken
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		lasting := *p
		lasting.story = s // what it opens is to outlive the subtest
		for _, e := range lasting.bothEnds() {
			lasting.greet(e)
			p.must(e.first.CloseWrite())
			_, err := readAll(p.ctx, e.second)
			p.must(err)
			all = append(all, broken{e, lasting})
		}
	})
	for _, b := range all {
		s.must(b.first.Reset())
	}
	for _, b := range all {
		s.within(15*time.Second, func() string {
			if len(b.path.records(b.path.client.Node, "outbound", b.to)) == 0 {
				return "nobody noticed that the " + b.name + " is gone"
			}
			return ""
		})
		b.path.ended(b.to, "reset")
		if err := b.second.Send(s.ctx, []byte("the answer")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("answering the %s, who is gone: %v, want EPIPE", b.name, err)
		}
	}
}

// wantReset asserts that err is what an app reads of a connection that was
// broken off, and never an end of data.
func wantReset(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want ECONNRESET", what, err)
	}
}

func TestAPortWithoutAServerIsRefusedAtOnce(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		to := p.target()
		// At once, before a SYN is sent again, at least once: the machine may be busy.
		fastest := time.Hour
		for try := 0; try < 5 && fastest > time.Second; try++ {
			conn, err := p.client.Dial(p.ctx, p.network, to)
			start := time.Now()
			switch {
			case err == nil: // the client's node took the connection
				p.Cleanup(func() { conn.Close() })
				_, err = conn.Receive(p.ctx, 1)
				wantReset(p.T, "what the client read", err)
			case errors.Is(err, syscall.ECONNRESET): // it was done with it before the client looked
			case try > 0 && errors.Is(err, syscall.ECONNREFUSED): // by connect(): it was dead a moment ago
			default:
				p.Errorf("try %d: connect: %v", try, err)
			}
			fastest = min(fastest, time.Since(start))
		}
		if fastest > time.Second {
			p.Errorf("refused after %v at best", fastest)
		}
		p.record(p.client.Node, "direction", "outbound", "target", to.String(), "path", p.way(p.client, p.server),
			"result", "dial", "response_flags", "CONNECT")
		p.record(p.server.Node, "direction", "inbound", "target", to.String(), "path", p.way(p.client, p.server),
			"result", "dial", "response_flags", "CONNECT", "src.identity", p.client.SPIFFEID("cluster.local"))
		// With a server it is reached, by the same tunnel.
		p.serve(p.server.Place, agent.Echo, to.Port())
		p.connects(p.client, p.network, to, false) // a second later
		p.must(p.client.Ping(p.ctx, p.network, to, "now there is one"))
	})
}

func TestAnAppThatNeverClosesHoldsNothingOnceItsPeerIsGone(t *testing.T) {
	const count = 50
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		ln, to := p.listen()
		near, far := p.dial(ln, to) // opens the tunnel
		p.greet(ends{first: near, second: far})
		before := p.censuses()
		var clients, servers []*agent.Conn
		for range count {
			c, s := p.dial(ln, to)
			clients, servers = append(clients, c), append(servers, s)
		}
		// Some of those before may have been for requests of the story itself.
		if now := p.census(p.one)["descriptors"]; now < before[0]["descriptors"]+count/2 {
			p.Errorf("%d descriptors with %d more connections, %d before", now, count, before[0]["descriptors"])
		}
		for _, c := range clients {
			p.must(c.Reset())
		}
		for i, n := range p.Nodes {
			p.wantNothingNew(n, before[i])
		}
		for _, s := range servers {
			_, err := s.Receive(p.ctx, 1)
			wantReset(p.T, "what the server reads at last", err)
		}
		p.must(errors.Join(near.Ping(p.ctx, ""), far.Send(p.ctx, nil)))
	})
}
