// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// What a tunnel grants its peer. The values are those of Istio's ztunnel where it has one.
const (
	streamWindow = 64 << 10 // bytes that a stream may hold at first for an app that does not read
	wideWindow   = 1 << 20  // of a stream whose app reads
	widestWindow = 8 << 20  // of one that is held back by its window
	ghostLimit   = serverStreams * (widestWindow + 1)

	tunnelWindow        = 1 << 20  // bytes on the way in all streams of a tunnel, at first
	largestTunnelWindow = 16 << 20 // and where much comes, or it holds the streams back

	unsentLimit = 256 << 10 // bytes of a tunnel that the kernel holds and has not sent

	streamIDLimit = 1 << 30 // ids are 31 bits: a tunnel that used half of its own is retired
)

// What a tunnel takes from its peer before it is closed with ENHANCE_YOUR_CALM.
// Peers are authenticated; a compromised workload is one too.
const (
	informationalLimit = 8       // 1xx answers to one CONNECT
	emptyDataLimit     = 100     // DATA frames without data that end nothing, in a tunnel's life
	unflushedLimit     = 100     // frames that the peer made us owe, not yet written
	controlLimit       = 1 << 20 // bytes that wait to go ahead of DATA, beyond which no stream is opened
)

// How often a peer may do what is allowed once and an attack when repeated.
var (
	pingRate     = rate.Limit{PerSecond: 10, Burst: 50}
	settingsRate = rate.Limit{PerSecond: 10.0 / 60, Burst: 10}
	// Streams that the peer resets before anyone accepted them (CVE-2023-44487).
	earlyResetRate = rate.Limit{PerSecond: 100, Burst: 200}
	// Streams that we reset because of what the peer did (CVE-2025-8671).
	faultRate = rate.Limit{PerSecond: 10, Burst: 100}
	// Streams turned away: above the limit, or no proper request.
	refusalRate = rate.Limit{PerSecond: 200, Burst: 400}
	// Requests that the Listener's user rejects. Clients of a service that is down are
	// below it, however many a peer has.
	rejectRate = rate.Limit{PerSecond: 5000, Burst: 5000}
	// GOAWAYs that have a younger tunnel dialled for the streams of one.
	askRate = rate.Limit{PerSecond: 0.1, Burst: 10}
	// Frames that mean nothing: unknown ones, PRIORITY, RST_STREAM of closed streams.
	noiseRate = rate.Limit{PerSecond: 10000, Burst: 20000}
)

// Deadlines of the protocol.
const (
	settingsTimeout = 10 * time.Second // the peer's preface and first SETTINGS
	firstRest       = time.Second      // after these, before a tunnel without a stream rests
	headerTimeout   = 5 * time.Second  // a header block, or a frame that is not DATA, from begin to end
	pingInterval    = 10 * time.Second
	silentPings     = 2                // unanswered PINGs after which the tunnel is dead: 20 s
	stuckPause      = time.Second      // without progress in writing, after which a tunnel gets no new streams
	stuckLimit      = 60 * time.Second // the same, after which it ends
	goAwayDelay     = time.Second
	leaveTimeout    = 3 * time.Second // for the place of an idle tunnel that was asked to go
	idleLeast       = time.Second     // without a stream, before a Pool's tunnel makes room
	hangUpTimeout   = time.Second     // for our last frames, and the peer's, once a tunnel is dead
	lastWord        = 2 * time.Second // for the peer to end its side, when all of ours has arrived
)

// What a Listener holds.
const (
	acceptLimit    = 1024 // streams that nobody accepted yet
	tunnelLimit    = 4096
	holderShare    = 8   // of a Listener's tunnels, one in so many is the most that one holder may have
	holderLeast    = 16  // if that is more
	unawaitedLimit = 16  // tunnels of trust domains of which nobody is let in
	leavingFactor  = 2   // tunnels, with those that were asked to go, over the most
	liveFactor     = 2   // streams whose app is still being served, over those the peer sees open
	serverStreams  = 200 // MAX_CONCURRENT_STREAMS
	clientStreams  = 100 // streams that a Pool puts into one tunnel
)

// What a Gate lets in. A socket that still says why it was refused counts.
const (
	handshakeLimit   = 4096 // under way in the process
	handshakesOfPod  = 1024
	handshakesOfPeer = 512      // of one address: each pod of a node may dial it at once
	handshakeSize    = 64 << 10 // bytes that a peer may say in one, with what is read ahead
)

// tinyRate is of DATA frames smaller than tinySize that a stream sends although
// nothing comes back; beyond it bytes are collected.
var tinyRate = rate.Limit{PerSecond: 20, Burst: 64}

const (
	tinySize  = 256
	tinyPause = time.Millisecond
)
