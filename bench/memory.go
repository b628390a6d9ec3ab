// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
)

// What came with a change has settled after a moment. That a stream is idle ours notices
// after five seconds to fifteen, and then lets go of what it does not need. A run with less
// time for a measurement waits for less, and does not see that.
const (
	settled   = 500 * time.Millisecond
	idleTimes = 22
	idleLong  = idleTimes * time.Second // in a run of two seconds, of which the row has one
)

// grown is by how much the resident memory of processes has grown, in MB, some time after
// the change.
func grown(ctx context.Context, before int64, pids []int, after time.Duration) (float64, error) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	now, err := proc.RSS(pids...)
	return float64(now-before) / 1e6, err
}

// measureIdle opens a thousand more streams in each repetition: what they
// need, and not what the process has kept of former ones. One end's share.
func measureIdle(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	if len(p.proxies) == 0 {
		return nil, errNotHere
	}
	family := p.family()
	before, err := proc.RSS(family...)
	if err != nil {
		return nil, err
	}
	if _, err := p.client.Do(ctx, load.Order{Kind: load.Hold, To: p.to, Streams: c.streams}); err != nil {
		return nil, errors.Join(err, p.release(ctx))
	}
	more, err := grown(ctx, before, family, min(idleLong, idleTimes*m.duration))
	return readings{mIdle: more / float64(len(p.proxies)) * 1000 / float64(c.streams)}, err
}

// The row burst: so many connections are open at once, and go; then nothing happens.
const (
	burstStreams = 10000
	burstWait    = time.Minute
)

// measureBurst compares with what the proxies had before the first row of the run.
func measureBurst(ctx context.Context, _ *measurement, p *peer, c cell) (readings, error) {
	if len(p.proxies) == 0 {
		return nil, errNotHere
	}
	const steps = 10 // each is answered before the next begins, so that no queue is tested
	for range steps {
		if _, err := p.client.Do(ctx, load.Order{Kind: load.Hold, To: p.to, Streams: c.streams / steps}); err != nil {
			return nil, errors.Join(err, p.release(ctx))
		}
	}
	if err := p.release(ctx); err != nil {
		return nil, err
	}
	select {
	case <-time.After(burstWait):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	after, err := proc.RSS(p.family()...)
	return readings{mBurst: float64(after) / float64(p.resting)}, err
}

// release closes what the columns' workers hold.
func (p *peer) release(ctx context.Context) error {
	_, err := p.client.Do(ctx, load.Order{Kind: load.Release})
	_, serr := p.server.Do(ctx, load.Order{Kind: load.Release})
	return errors.Join(err, serr)
}

// measureTunnels opens tunnels from outside, which is a peer like any other.
func measureTunnels(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	if !p.gate.IsValid() {
		return nil, errNotHere
	}
	family := proc.Family(p.gateway)
	before, err := proc.RSS(family...)
	if err != nil {
		return nil, err
	}
	if _, err := m.outside.Do(ctx, load.Order{Kind: load.Tunnels, To: p.gate, Tunnel: p.tunnel, Streams: c.streams}); err != nil {
		return nil, err
	}
	more, err := grown(ctx, before, family, settled)
	return readings{mTunnels: more * 1000 / float64(c.streams)}, err
}

// measureHandshakes counts by the CPU of the end that accepts.
func measureHandshakes(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	if !p.gate.IsValid() {
		return nil, errNotHere
	}
	accepting := &peer{name: p.name, proxies: []int{p.gateway}}
	a, used, err := accepting.spend(ctx, m.outside, load.Order{Kind: load.Handshakes, To: p.gate, Tunnel: p.tunnel, Streams: c.streams, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	if used == 0 {
		return nil, errors.New("too short to read the CPU")
	}
	return readings{mHandshakes: float64(a.Count) / used.Seconds()}, nil
}

// measureEffort counts what a proxy does for the bytes, by the kernel and by
// its own word, each for one node.
func measureEffort(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	if len(p.proxies) == 0 {
		return nil, errNotHere
	}
	counter, err := proc.CountSyscalls(p.family()...)
	if err != nil {
		return nil, err
	}
	defer counter.Close()
	var a load.Answer
	allocated, err := p.allocations(ctx, func() (err error) {
		a, err = p.client.Do(ctx, load.Order{Kind: load.Bulk, To: p.to, Streams: c.streams, Reverse: c.direction == reverse, Duration: m.duration})
		return err
	})
	if err != nil {
		return nil, err
	}
	calls, err := counter.Count()
	megabytes := float64(a.Bytes) / 1e6 * float64(len(p.proxies))
	r := readings{mSyscalls: float64(calls) / megabytes}
	if p.mallocs != nil {
		r[mAllocs] = allocated / megabytes
	}
	return r, err
}

// allocations counts those of the proxies while work is done, less those that
// the counting takes.
func (p *peer) allocations(ctx context.Context, work func() error) (float64, error) {
	if p.mallocs == nil {
		return 0, work()
	}
	var counts [3]uint64
	for i := range counts {
		n, err := p.mallocs(ctx)
		if err != nil {
			return 0, err
		}
		counts[i] = n
		if i == 1 {
			if err := work(); err != nil {
				return 0, err
			}
		}
	}
	counting := int64(counts[1] - counts[0])
	return float64(max(int64(counts[2]-counts[1])-counting, 0)), nil
}

// askAll adds up what sockets of reference.Run tell.
func askAll(paths []string) func(context.Context) (uint64, error) {
	return func(ctx context.Context) (sum uint64, err error) {
		for _, path := range paths {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return 0, err
			}
			var n uint64
			_, err = fmt.Fscan(conn, &n)
			conn.Close()
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}
}
