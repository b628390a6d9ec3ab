// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
)

// attack is one way to do harm.
type attack struct {
	name  string
	by    func(*site) *load.Worker // default: the peer outside
	order func(*site) load.Order
	lasts bool // what was opened does the harm; else it is done all the while
}

// Those that go on are done at a rate that both builds bear, and as fast as the
// attacker can.
var attacks = []attack{
	{name: "32 handshakes a second with a stranger's chain of eight P-521 certificates", order: chains(32)},
	{name: "such handshakes, 32 at once, as fast as goes", order: chains(0)},
	{name: "40 tunnels of 32 streams, full of bytes for an app that reads none", lasts: true, order: func(s *site) load.Order {
		return load.Order{Kind: load.Unread, To: s.gate, Target: s.app, Tunnel: s.peer, Streams: 40}
	}},
	{name: "60 streams between the victim's own pods whose app reads nothing", lasts: true, by: victim, order: stalls(60)},
	{name: "200 such streams", lasts: true, by: victim, order: stalls(200)},
	{name: "4,110 idle tunnels of one peer to the victim's server", lasts: true, order: func(s *site) load.Order {
		return load.Order{Kind: load.Tunnels, To: s.serverGate, Tunnel: s.peer, Streams: 4110}
	}},
	{name: "2,000 streams a second to a closed port, one tunnel", order: refused(2000)},
	{name: "such streams, as fast as goes", order: refused(0)},
	{name: "2,000 streams a second that are reset at once, one tunnel", order: dropped(2000)},
	{name: "such streams, one tunnel after the other, as fast as goes", order: dropped(0)},
}

func chains(rate float64) func(*site) load.Order {
	return func(s *site) load.Order { return load.Order{Kind: load.Chains, To: s.gate, Streams: 32, Rate: rate} }
}

func refused(rate float64) func(*site) load.Order {
	return func(s *site) load.Order {
		return load.Order{Kind: load.Refused, To: s.gate, Target: s.closed, Tunnel: s.peer, Rate: rate}
	}
}

func dropped(rate float64) func(*site) load.Order {
	return func(s *site) load.Order {
		return load.Order{Kind: load.Dropped, To: s.gate, Target: s.app, Tunnel: s.peer, Rate: rate}
	}
}

func victim(s *site) *load.Worker { return s.client }

func stalls(n int) func(*site) load.Order {
	return func(s *site) load.Order { return load.Order{Kind: load.Stall, To: s.to, Streams: n} }
}

// reading is what the victim felt: p99 in ms, and the memory of its server's ztunnel in MB.
type reading struct {
	echo, open outcome
	memory     float64
}

// outcome is a p99, or why there is none.
type outcome struct {
	ms  float64
	err error
}

// felt is a victim's readings beside one attack, and alone just before.
type felt struct {
	alone, beside reading
	rate          float64 // handshakes or streams of the attack, a second
	err           error   // of the attack itself
}

// measure runs every attack against one build, each at a site of its own: what one
// leaves is not the next one's.
func measure(ctx context.Context, program string, d time.Duration) (all []felt, err error) {
	for _, a := range attacks {
		s, err := newSite(ctx, program)
		if err != nil {
			return all, err
		}
		f, err := a.measure(ctx, s, d)
		if err = errors.Join(err, s.close()); err != nil {
			return all, fmt.Errorf("%s: %w", a.name, err)
		}
		fmt.Fprintf(os.Stderr, "attacks: %s: alone %v, beside %v, %.0f/s, %v\n", a.name, f.alone, f.beside, f.rate, f.err)
		all = append(all, f)
	}
	return all, nil
}

// measure runs the attack, and reads the victim before and meanwhile.
func (a attack) measure(ctx context.Context, s *site, d time.Duration) (f felt, err error) {
	s.read(ctx, d/5) // tunnels and caches
	f.alone = s.read(ctx, d)
	if !a.lasts {
		f.during(ctx, s, a.order(s), d)
		return f, nil
	}
	worker := s.outside
	if a.by != nil {
		worker = a.by(s)
	} else if err := s.clientPod.Sever(tunnelPort); err != nil { // the victim is a newcomer, who must find room
		return f, err
	}
	_, f.err = worker.Do(ctx, a.order(s))
	f.beside = s.read(ctx, d)
	return f, nil
}

// during measures the victim while the attack goes on.
func (f *felt) during(ctx context.Context, s *site, o load.Order, d time.Duration) {
	warmUp := min(d, 500*time.Millisecond)
	o.Duration = d + d/2 + 3*warmUp
	done := make(chan struct{})
	go func() {
		var answer load.Answer
		answer, f.err = s.outside.Do(ctx, o)
		f.rate = float64(answer.Count) / answer.Elapsed.Seconds()
		close(done)
	}()
	time.Sleep(warmUp)
	f.beside = s.read(ctx, d)
	<-done
}

// read measures the victim.
func (s *site) read(ctx context.Context, d time.Duration) (r reading) {
	r.echo = p99(s.client.Do(ctx, load.Order{Kind: load.RTT, To: s.to, Duration: d}))
	r.open = p99(s.client.Do(ctx, load.Order{Kind: load.First, To: s.to, Duration: d / 2}))
	r.memory = s.memory()
	return r
}

func p99(a load.Answer, err error) outcome {
	return outcome{a.Quantile(0.99) / 1e6, err}
}
