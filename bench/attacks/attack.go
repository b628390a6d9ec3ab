// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
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

var attacks = []attack{
	{name: "a stranger's chains of eight P-521 certificates, 32 handshakes at once", order: func(s *site) load.Order {
		return load.Order{Kind: load.Chains, To: s.gate, Streams: 32}
	}},
	{name: "40 tunnels of 32 streams, full of bytes for an app that reads none", lasts: true, order: func(s *site) load.Order {
		return load.Order{Kind: load.Unread, To: s.gate, Target: s.app, Tunnel: s.peer, Streams: 40}
	}},
	{name: "60 streams between the victim's own pods whose app reads nothing", lasts: true, by: victim, order: stalls(60)},
	{name: "200 such streams", lasts: true, by: victim, order: stalls(200)},
	{name: "4,110 idle tunnels of one peer to the victim's server", lasts: true, order: func(s *site) load.Order {
		return load.Order{Kind: load.Tunnels, To: s.serverGate, Tunnel: s.peer, Streams: 4110}
	}},
	{name: "streams to a closed port, one tunnel, as fast as goes", order: func(s *site) load.Order {
		return load.Order{Kind: load.Refused, To: s.gate, Target: s.closed, Tunnel: s.peer}
	}},
	{name: "streams reset at once, one tunnel after the other, as fast as goes", order: func(s *site) load.Order {
		return load.Order{Kind: load.Dropped, To: s.gate, Target: s.app, Tunnel: s.peer}
	}},
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
	count         int   // handshakes or streams of the attack meanwhile
	err           error // of the attack itself
}

// measure runs every attack against one build.
func measure(ctx context.Context, program string, d time.Duration) (all []felt, err error) {
	for _, a := range attacks {
		f, err := a.measure(ctx, program, d)
		if err != nil {
			return all, fmt.Errorf("%s: %w", a.name, err)
		}
		fmt.Fprintf(os.Stderr, "attacks: %s: alone %v, beside %v, %d, %v\n", a.name, f.alone, f.beside, f.count, f.err)
		all = append(all, f)
	}
	return all, nil
}

// measure has one attack done, at a site of its own: what one leaves is not the
// next one's.
func (a attack) measure(ctx context.Context, program string, d time.Duration) (f felt, err error) {
	s, err := newSite(ctx, program)
	if err != nil {
		return f, err
	}
	defer func() { err = s.close() }()
	s.read(ctx, d/5) // tunnels and caches
	f.alone = s.read(ctx, d)
	worker := s.outside
	if a.by != nil {
		worker = a.by(s)
	}
	o := a.order(s)
	if a.lasts {
		if a.by == nil { // then the victim is a newcomer, who must find room
			err = s.clientPod.Sever(tunnelPort)
		}
		_, f.err = worker.Do(ctx, o)
		f.beside = s.read(ctx, d)
		return f, err
	}
	o.Duration = d + d/2 + 3*warmUp
	done := make(chan struct{})
	go func() {
		var answer load.Answer
		answer, f.err = worker.Do(ctx, o)
		f.count = answer.Count
		close(done)
	}()
	time.Sleep(warmUp)
	f.beside = s.read(ctx, d)
	<-done
	return f, err
}

// warmUp is how long an attack goes on before its victim is measured.
const warmUp = 500 * time.Millisecond

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
