// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math"
	"net/netip"
	"runtime"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
)

// calibration is what this machine can do at best, now: seconds of CPU, of all
// CPUs together, but for the times that say otherwise.
type calibration struct {
	Hop     float64 `json:"hop"`     // a byte through one TCP connection on loopback, both ends
	Seal    float64 `json:"seal"`    // a byte, AES-128-GCM of crypto/cipher
	Open    float64 `json:"open"`    //
	Sign    float64 `json:"sign"`    // ECDSA P-256
	Verify  float64 `json:"verify"`  //
	X25519  float64 `json:"x25519"`  // a key and an exchange
	Connect float64 `json:"connect"` // connect, accept, 64 B there and back, close
	Echo    float64 `json:"echo"`    // a message there and back
	Wake    float64 `json:"wake"`    // elapsed: to read and write in one more process
	Tail    float64 `json:"tail"`    // elapsed: p99 of the round trip between the pods
}

// calibrate measures between the plain pods, and within the client's.
func (m *measurement) calibrate(ctx context.Context) (calibration, error) {
	var c calibration
	client := m.plain[0]
	self, far := client.pod.At("tcp4", load.Port), m.plain[1].pod.At("tcp4", load.Port)
	part := min(max(m.duration/8, 60*time.Millisecond), 150*time.Millisecond)
	var firstErr error
	do := func(o load.Order) load.Answer {
		o.Duration = part
		a, err := client.load.Do(ctx, o)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		return a
	}
	bulk := do(load.Order{Kind: load.Bulk, To: self})
	open := do(load.Order{Kind: load.Open, To: self, Streams: 8})
	echo := do(load.Order{Kind: load.RTT, To: self})
	near := do(load.Order{Kind: load.RTT, To: far})
	hop := do(load.Order{Kind: load.RTT, To: netip.AddrPortFrom(far.Addr(), load.Port), Via: self})
	gauges := do(load.Order{Kind: load.Gauge}).Gauges
	if firstErr != nil {
		return c, firstErr
	}
	c.Hop = bulk.CPU.Seconds() / float64(bulk.Bytes)
	c.Connect = open.CPU.Seconds() / float64(open.Count)
	c.Echo = echo.CPU.Seconds() / float64(echo.Count) * float64(part) / float64(part+50*time.Millisecond)
	c.Wake = math.Max(hop.Quantile(0.5)-near.Quantile(0.5), 0) / 2 / 1e9
	c.Tail = near.Quantile(0.99) / 1e9
	c.Seal, c.Open = gauges[load.GaugeSeal], gauges[load.GaugeOpen]
	c.Sign, c.Verify, c.X25519 = gauges[load.GaugeSign], gauges[load.GaugeVerify], gauges[load.GaugeX25519]
	return c, nil
}

// typical is the median of each number.
func typical(all []calibration) calibration {
	of := func(get func(calibration) float64) float64 {
		values := make([]float64, len(all))
		for i, c := range all {
			values[i] = get(c)
		}
		return quantile(values, 0.5)
	}
	return calibration{
		Hop: of(func(c calibration) float64 { return c.Hop }), Seal: of(func(c calibration) float64 { return c.Seal }),
		Open: of(func(c calibration) float64 { return c.Open }), Sign: of(func(c calibration) float64 { return c.Sign }),
		Verify: of(func(c calibration) float64 { return c.Verify }), X25519: of(func(c calibration) float64 { return c.X25519 }),
		Connect: of(func(c calibration) float64 { return c.Connect }), Echo: of(func(c calibration) float64 { return c.Echo }),
		Wake: of(func(c calibration) float64 { return c.Wake }), Tail: of(func(c calibration) float64 { return c.Tail }),
	}
}

// Of a stream's and a tunnel's memory: what neither language can leave out.
const (
	leastStream  = 1.2 // MB per 1k: user space state of two descriptors
	leastTunnel  = 1.0 // MB per 1k: two key schedules, a descriptor
	leastPerOpen = 5e-6
	sealShort    = 0.4e-6 // to seal and open 100 B
	quantum      = 64 << 10
	notSent      = 256 << 10
	batch        = 256 << 10 // bytes per syscall at best
)

// limit is what physics allows a column with its hops and crypto; see
// docs/benchmarks.md. NaN where it allows anything.
func (c calibration) limit(metric string, of cell, p *peer) float64 {
	cores, hops := float64(runtime.NumCPU()), float64(p.hops)
	var crypto, message float64
	if p.crypto {
		crypto, message = c.Seal+c.Open, 2*(sealShort+float64(of.size)*(c.Seal+c.Open))
	}
	byteCost := hops*c.Hop + crypto
	switch metric {
	case mBulk:
		if of.streams == 1 && cores >= 4 && p.crypto {
			return 8e-9 / max(c.Hop, c.Seal+c.Hop/2, c.Open+c.Hop/2)
		}
		return 8e-9 * cores / byteCost
	case mCPU:
		return ((hops-1)*c.Hop + crypto) * 1e9
	case mFairness:
		return 1
	case mAdded:
		return (2*(hops-1)*c.Wake + message) * 1e6
	case mOpen, mOverload:
		return cores / (2*c.Connect + leastPerOpen)
	case mOpenCPU:
		return (2*c.Connect + leastPerOpen) * 1e6
	case mCold:
		return (2*(c.X25519+c.Sign+2*c.Verify) + 4*(hops-1)*c.Wake) * 1e6
	case mFirst:
		return (float64(of.size)*byteCost/cores + 2*(hops-1)*c.Wake) * 1e6
	case mIdle:
		return leastStream
	case mTunnels:
		return leastTunnel
	case mBehind:
		return (c.Tail + (quantum+notSent)*byteCost/cores) * 1e6
	case mSchedule:
		return (c.Tail + 2*(hops-1)*c.Wake + message) * 1e6
	case mSyscalls:
		return 2 * 1e6 / batch
	case mAllocs:
		return 0
	case mHandshakes:
		return 1 / (c.X25519 + c.Sign + 2*c.Verify)
	case mRequests:
		return cores / (hops*c.Echo + message)
	}
	return math.NaN()
}
