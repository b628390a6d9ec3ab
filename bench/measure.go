// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
)

// The metrics: names of the table's rows. Each is read in one unit and is the
// better the higher or the lower.
const (
	mBulk       = "bulk throughput"
	mCPU        = "CPU of the proxies"
	mFairness   = "fairness (Jain)"
	mRTT50      = "RTT p50"
	mRTT99      = "RTT p99"
	mAdded      = "added RTT p50"
	mOpen       = "connections"
	mOpenCPU    = "CPU per connection"
	mIdle       = "RSS per 1k idle streams"
	mTunnels    = "RSS per 1k idle tunnels"
	mCold       = "first byte without a tunnel"
	mFirst      = "first 128 KiB of a connection"
	mBehind     = "RTT p99 behind bulk"
	mSyscalls   = "syscalls per MB"
	mAllocs     = "allocations per MB"
	mHandshakes = "handshakes per core"
	mRequests   = "requests"
	mSchedule   = "p99 at a fixed rate"
	mOverload   = "connections at twice the rate"

	mBurst        = "RSS 60 s after a burst"
	mFortio       = "fortio requests"
	mFortio99     = "fortio p99"
	mFortioCPU    = "CPU per fortio request"
	mIperf        = "iperf3 throughput"
	mCoresBulk    = "bulk throughput by CPUs"
	mCoresCPU     = "CPU of the proxies by CPUs"
	mCoresOpen    = "connections by CPUs"
	mCoresOpenCPU = "CPU per connection by CPUs"
)

type metric struct {
	name   string
	unit   string
	higher bool // is better
}

var metrics = []metric{
	{mBulk, "Gb/s", true}, {mCPU, "s/GB", false}, {mFairness, "", true},
	{mRTT50, "us", false}, {mRTT99, "us", false}, {mAdded, "us", false},
	{mOpen, "/s", true}, {mOpenCPU, "us", false},
	{mCold, "us", false}, {mFirst, "us", false}, {mIdle, "MB", false}, {mTunnels, "MB", false},
	{mBehind, "us", false}, {mSyscalls, "/MB", false}, {mAllocs, "/MB", false},
	{mHandshakes, "/s", true}, {mRequests, "/s", true}, {mSchedule, "us", false}, {mOverload, "/s", true},
	{mBurst, "", false}, {mFortio, "/s", true}, {mFortio99, "us", false}, {mFortioCPU, "us", false}, {mIperf, "Gb/s", true},
	{mCoresBulk, "Gb/s", true}, {mCoresCPU, "s/GB", false}, {mCoresOpen, "/s", true}, {mCoresOpenCPU, "us", false},
}

// measurement is a run in progress.
type measurement struct {
	*world
	repetitions int
	duration    time.Duration
	stages      []*stage
	latency     map[string][]float64 // by column: the quantiles of 64 B, in µs
}

// spend runs a load through a column and says what its proxies used meanwhile.
func (p *peer) spend(ctx context.Context, by *load.Worker, o load.Order) (a load.Answer, used time.Duration, err error) {
	used, err = p.cost(func() (err error) {
		a, err = by.Do(ctx, o)
		return err
	})
	return a, used, err
}

// cost is what the proxies used while work was done.
func (p *peer) cost(work func() error) (time.Duration, error) {
	family := p.family()
	before, err := p.used(family)
	if err != nil {
		return 0, fmt.Errorf("the proxy is gone: %w", err)
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := p.used(family)
	return after - before, err
}

// used is the CPU time so far.
func (p *peer) used(family []int) (time.Duration, error) {
	used, err := proc.CPU(family...)
	if p.softirq {
		used += proc.Softirq()
	}
	return used, err
}

func measureBulk(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, used, err := p.spend(ctx, p.client, load.Order{Kind: load.Bulk, To: p.to, Streams: c.streams, Reverse: c.direction == reverse, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	r := readings{mBulk: float64(a.Bytes) * 8 / 1e9 / a.Elapsed.Seconds()}
	if len(p.proxies) > 0 {
		r[mCPU] = used.Seconds() / float64(a.Bytes) * 1e9
	}
	if c.streams == 8 {
		r[mFairness] = jain(a.PerStream)
	}
	return r, nil
}

// jain is 1 if all streams moved the same, and 1/n if one moved all.
func jain(streams []uint64) float64 {
	var sum, squares float64
	for _, n := range streams {
		sum += float64(n)
		squares += float64(n) * float64(n)
	}
	return sum * sum / (float64(len(streams)) * squares)
}

func measureRTT(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, err := p.client.Do(ctx, load.Order{Kind: load.RTT, To: p.to, Size: c.size, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	if c.size == 64 {
		m.keepLatency(p, a)
	}
	return readings{mRTT50: micro(a.Quantile(0.5)), mRTT99: micro(a.Quantile(0.99))}, nil
}

// keepLatency keeps the distribution of the last repetition for the plot.
func (m *measurement) keepLatency(p *peer, a load.Answer) {
	curve := make([]float64, len(a.Quantiles))
	for i, ns := range a.Quantiles {
		curve[i] = micro(ns)
	}
	m.latency[p.name] = curve
}

func measureOpen(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, used, err := p.spend(ctx, p.client, load.Order{Kind: load.Open, To: p.to, Streams: c.streams, Size: c.size, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	r := readings{mOpen: perSecond(a)}
	if len(p.proxies) > 0 {
		r[mOpenCPU] = micro(float64(used)) / float64(a.Count)
	}
	return r, nil
}

// measureCold resets the tunnels before each connection. A proxy that has not
// noticed yet may send one into the dead tunnel: that one says nothing.
func measureCold(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	var times []float64
	failed := 0
	for end := time.Now().Add(m.duration); len(times) == 0 || time.Now().Before(end); {
		if p.sever != nil {
			if err := p.sever(); err != nil {
				return nil, err
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		a, err := p.client.Do(ctx, load.Order{Kind: load.First, To: p.to, Size: c.size, Duration: 1})
		if err == nil {
			times = append(times, micro(a.Quantile(0.5)))
		} else if failed++; failed > 3+len(times)/10 {
			return nil, err
		}
	}
	return readings{mCold: quantile(times, 0.5)}, nil
}

func measureFirst(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, err := p.client.Do(ctx, load.Order{Kind: load.First, To: p.to, Size: c.size, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	return readings{mFirst: micro(a.Quantile(0.5))}, nil
}

func measureBehind(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, err := p.client.Do(ctx, load.Order{Kind: load.RTT, To: p.to, Size: c.size, Duration: m.duration, Behind: 1})
	if err != nil {
		return nil, err
	}
	return readings{mBehind: micro(a.Quantile(0.99))}, nil
}

func measureRequests(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, err := p.client.Do(ctx, load.Order{Kind: load.RTT, To: p.to, Size: c.size, Streams: c.streams, Duration: m.duration})
	if err != nil {
		return nil, err
	}
	return readings{mRequests: perSecond(a)}, nil
}

// measureSchedule counts from when a message was due, so that a wait of those
// before it counts too.
func measureSchedule(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	a, err := p.client.Do(ctx, load.Order{Kind: load.RTT, To: p.to, Size: c.size, Streams: c.streams, Rate: float64(c.rate), Duration: m.duration})
	if err != nil {
		return nil, err
	}
	return readings{mSchedule: micro(a.Quantile(0.99))}, nil
}

// measureOverload asks for twice what it just reached.
func measureOverload(ctx context.Context, m *measurement, p *peer, c cell) (readings, error) {
	o := load.Order{Kind: load.Open, To: p.to, Streams: 8, Size: c.size, Duration: m.duration / 2}
	a, err := p.client.Do(ctx, o)
	if err != nil {
		return nil, err
	}
	o.Rate, o.Streams, o.Duration = 2*perSecond(a), c.streams, m.duration
	if a, err = p.client.Do(ctx, o); err != nil {
		return nil, err
	}
	return readings{mOverload: perSecond(a)}, nil
}
