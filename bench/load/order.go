// SPDX-License-Identifier: Apache-2.0

package load

import (
	"net/netip"
	"time"
)

// Kind is what a worker can be told to do.
type Kind string

const (
	Bulk       Kind = "bulk"       // move as much as goes, by Streams connections
	RTT        Kind = "rtt"        // echo messages of Size, by Streams connections at once
	Open       Kind = "open"       // open, echo Size bytes and close, by Streams at once
	First      Kind = "first"      // open, await Size bytes and close, one after the other
	Hold       Kind = "hold"       // open Streams more connections that do nothing
	Release    Kind = "release"    // close those, and what the worker as a server holds
	Prove      Kind = "prove"      // move Size bytes each way and compare
	Handshakes Kind = "handshakes" // open and close tunnels by mutual TLS, Streams at once
	Tunnels    Kind = "tunnels"    // open Streams more tunnels that do nothing
	Stall      Kind = "stall"      // open Streams more connections to an app that reads nothing, and fill them
	Gauge      Kind = "gauge"      // time the ciphers and curves of this CPU
)

// What a peer does that means harm. It speaks HBONE itself, and what it opens
// stays open until Release.
const (
	Chains    Kind = "chains"    // handshakes with a chain of self-made P-521 certificates, Streams at once
	Strangers Kind = "strangers" // handshakes with one self-made P-256 certificate, Streams at once
	Unread    Kind = "unread"    // Streams tunnels full of streams to Target, an app that reads nothing, and fill them
	Refused   Kind = "refused"   // streams to Target, where nobody listens, one after the other in each of Streams tunnels
	Dropped   Kind = "dropped"   // the same, each reset at once
)

// Order tells a worker what to do. Fields that a Kind does not name are not
// looked at.
type Order struct {
	Kind     Kind
	To       netip.AddrPort // required but for Release and Gauge
	Via      netip.AddrPort // RTT: a worker that relays; none
	Streams  int            // 1
	Size     int            // 64
	Reverse  bool           // Bulk: from server to client
	Duration time.Duration  // 1 s
	Behind   int            // RTT: so many bulk streams run meanwhile; 0
	Rate     float64        // RTT, Open, Chains, Strangers, Refused, Dropped: begin so many a second whether or not others are done; 0: when done
	Whole    bool           // Prove: without a half-close
	Tunnel   Credential     // Handshakes, Tunnels, and what means harm but for Chains and Strangers
	Target   netip.AddrPort // Unread, Refused, Dropped: of the CONNECT
}

// Credential names PEM files.
type Credential struct{ Cert, Key, Roots string }

// Answer is what a worker measured.
type Answer struct {
	Error     string             `json:",omitempty"`
	Bytes     uint64             `json:",omitempty"` // Bulk: that arrived
	PerStream []uint64           `json:",omitempty"` // Bulk
	Count     int                `json:",omitempty"` // RTT, Open, First, Handshakes, Chains, Strangers, Refused, Dropped: done
	Elapsed   time.Duration      `json:",omitempty"`
	Quantiles []float64          `json:",omitempty"` // RTT, First: in ns, at 0, 1/1000 … 1
	Gauges    map[string]float64 `json:",omitempty"` // Gauge: see gauge
	CPU       time.Duration      `json:",omitempty"` // that the worker used meanwhile
}

// complete sets defaults.
func (o Order) complete() Order {
	o.Streams = max(o.Streams, 1)
	if o.Size == 0 {
		o.Size = 64
	}
	if o.Duration == 0 {
		o.Duration = time.Second
	}
	return o
}

// Quantile is one of Quantiles, in nanoseconds.
func (a Answer) Quantile(q float64) float64 {
	if len(a.Quantiles) == 0 {
		return 0
	}
	return a.Quantiles[int(q*float64(len(a.Quantiles)-1)+0.5)]
}
