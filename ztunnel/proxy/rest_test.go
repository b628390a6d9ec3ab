// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// relaying is the relay itself; nil if it is over.
func (r *relayed) relaying() *relaying {
	ticking.mu.Lock()
	defer ticking.mu.Unlock()
	for is := range ticking.all {
		if is.app == r.legs[0] {
			return is
		}
	}
	return nil
}

// tick is one of all relays.
func tick() { ticking.ask() }

// rest has the relay tick until both directions rest.
func (r *relayed) rest() *relaying {
	r.t.Helper()
	var is *relaying
	eventually(r.t, "a relay on which nothing moves rests", func() bool {
		tick()
		is = r.relaying()
		return is != nil && is.toFar.rest.Parked() && is.toApp.rest.Parked()
	})
	return is
}

// talk is a word each way.
func (r *relayed) talk() {
	r.t.Helper()
	send(r.t, r.client, "hello")
	expect(r.t, r.server, "hello")
	send(r.t, r.server, "there")
	expect(r.t, r.client, "there")
}

func resting(t *testing.T) (*relayed, *relaying) {
	r := startRelay(t)
	r.talk()
	return r, r.rest()
}

func TestARelayThatRestsCarriesOnAndRestsAgain(t *testing.T) {
	r, _ := resting(t)
	for range 2 {
		r.talk()
		r.rest()
	}
	r.client.CloseWrite()
	expectEOF(t, r.server)
	send(t, r.server, "last words")
	r.server.CloseWrite()
	expect(t, r.client, "last words")
	expectEOF(t, r.client)
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestRelaysAreAskedToRestAgainAndAgain(t *testing.T) {
	r := startRelay(t)
	r.talk()
	is := r.relaying()
	clock := &ticks{every: time.Millisecond}
	clock.add(is)
	for range 2 {
		r.talk()
		eventually(t, "it rests", func() bool { return is.toFar.rest.Parked() && is.toApp.rest.Parked() })
	}
	clock.remove(is)
	eventually(t, "the clock stops", func() bool {
		clock.mu.Lock()
		defer clock.mu.Unlock()
		return !clock.coming
	})
}

func TestARelayThatSpeaksDoesNotRest(t *testing.T) {
	r := startRelay(t)
	for range 4 {
		r.talk()
		tick()
		if is := r.relaying(); !is.toFar.rest.Awake() || !is.toApp.rest.Awake() {
			t.Fatal("rests between two words")
		}
	}
}

func TestOnlyTheDirectionThatIsNeededEndsItsRest(t *testing.T) {
	r, is := resting(t)
	send(t, r.client, "hello")
	expect(t, r.server, "hello")
	if !is.toApp.rest.Parked() {
		t.Error("woken for what goes the other way")
	}
}

// Each end of a relay finds it while it rests.
func TestARelayThatRestsIsFoundByWhateverEndsIt(t *testing.T) {
	policy := errors.New("a policy")
	for name, row := range map[string]struct {
		end  func(*relayed)
		want error
	}{
		"its app is reset":   {func(r *relayed) { reset(r.client) }, syscall.ECONNRESET},
		"its far end is":     {func(r *relayed) { reset(r.server) }, syscall.ECONNRESET},
		"a policy":           {func(r *relayed) { r.cancel(policy) }, policy},
		"both ends are done": {func(r *relayed) { r.client.CloseWrite(); r.server.CloseWrite() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := resting(t)
			row.end(r)
			if err := r.end(); !errors.Is(err, row.want) || row.want == nil && err != nil {
				t.Errorf("%v, want %v", err, row.want)
			}
			if r.relaying() != nil {
				t.Error("it is over, and ticks")
			}
			if row.want != nil {
				for _, conn := range []*net.TCPConn{r.client, r.server} {
					if _, err := io.Copy(io.Discard, conn); err == nil {
						t.Error("an app takes the reset for an end of data")
					}
				}
			}
		})
	}
}

// halfClosed is a relay one direction of which has ended, and rests without a tick.
func halfClosed(t *testing.T) (*relayed, *relaying) {
	r := startRelay(t)
	r.talk()
	r.client.CloseWrite()
	expectEOF(t, r.server)
	is := r.relaying()
	eventually(t, "a direction that has ended rests", is.toFar.rest.Parked)
	return r, is
}

func TestAHalfClosedRelayHasItsAnswerAndEnds(t *testing.T) {
	r, _ := halfClosed(t)
	r.rest()
	send(t, r.server, "the answer")
	r.server.CloseWrite()
	expect(t, r.client, "the answer")
	expectEOF(t, r.client)
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestAHalfClosedRelayThatRestsIsFoundByWhateverEndsIt(t *testing.T) {
	policy := errors.New("a policy")
	for name, row := range map[string]struct {
		end  func(*relayed)
		want error
	}{
		"the end that is done breaks": {func(r *relayed) { reset(r.client) }, syscall.EPIPE},
		"the other end breaks":        {func(r *relayed) { reset(r.server) }, syscall.ECONNRESET},
		"a policy":                    {func(r *relayed) { r.cancel(policy) }, policy},
	} {
		t.Run(name, func(t *testing.T) {
			r, is := halfClosed(t)
			r.rest()
			if !is.toFar.ended.Load() || is.toApp.ended.Load() {
				t.Fatal("not half closed")
			}
			row.end(r)
			if err := r.end(); !errors.Is(err, row.want) {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}

// The tail of data that comes with a close is passed on before it.
func TestWhatComesWithAnEndReachesTheOtherEndOfARelayThatRests(t *testing.T) {
	words := bytes.Repeat([]byte("last words "), 20_000)
	for name, end := range map[string]func(*net.TCPConn){
		"a FIN": func(conn *net.TCPConn) { conn.CloseWrite() },
		"a close that resets what is written later": func(conn *net.TCPConn) { conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := resting(t)
			if _, err := r.server.Write(words); err != nil {
				t.Fatal(err)
			}
			end(r.server)
			got, err := io.ReadAll(r.client)
			if err != nil || !bytes.Equal(got, words) {
				t.Errorf("%d bytes of %d, %v", len(got), len(words), err)
			}
		})
	}
}

func TestARelayThatRestsHasNoGoroutineAndNoRoom(t *testing.T) {
	of := NewBudget().Share("shop/web")
	r := startRelayOf(t, of)
	const bulk = 8 << 20
	go r.client.Write(make([]byte, bulk))
	if _, err := io.CopyN(io.Discard, r.server, bulk); err != nil {
		t.Fatal(err)
	}
	is := r.rest()
	eventually(t, "nobody carries", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "relaying).carry(")
	})
	if is.toFar.room.lent+is.toApp.room.lent > 0 {
		t.Error("it holds room")
	}
}

// No byte is lost or comes twice, whenever a relay is asked to rest.
func TestRelaysThatAreAskedToRestAllTheTimeLoseNothing(t *testing.T) {
	const many, rounds = 8, 60
	var relays []*relayed
	for range many {
		relays = append(relays, startRelay(t))
	}
	stop := make(chan struct{})
	var asking, talking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				tick()
			}
		}
	})
	for _, r := range relays {
		talking.Go(func() {
			for i := range rounds {
				word := bytes.Repeat([]byte{byte(i)}, 1+rand.IntN(1<<rand.IntN(18)))
				for _, way := range [][2]*net.TCPConn{{r.client, r.server}, {r.server, r.client}} {
					go way[0].Write(word)
					got := make([]byte, len(word))
					if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, word) {
						t.Errorf("round %d: %v", i, err)
						return
					}
				}
			}
			go r.client.Close()
			io.Copy(io.Discard, r.server)
			r.server.Close()
		})
	}
	talking.Wait()
	for _, r := range relays {
		if err := r.end(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	asking.Wait()
}

// How long the first byte takes through a relay that rests, and through one that does not.
func BenchmarkFirstByteOfARelay(b *testing.B) {
	for _, rests := range []bool{false, true} {
		b.Run(map[bool]string{false: "awake", true: "resting"}[rests], func(b *testing.B) {
			client, server := relayBench(b)
			go io.Copy(server, server)
			word := make([]byte, 64)
			for b.Loop() {
				b.StopTimer()
				if rests {
					tick()
					tick()
				}
				time.Sleep(2 * time.Millisecond) // both find an idle processor
				b.StartTimer()
				client.Write(word)
				io.ReadFull(client, word)
			}
		})
	}
}
