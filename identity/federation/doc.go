// SPDX-License-Identifier: Apache-2.0

// Package federation fetches the trust bundles of other trust domains, by the SPIFFE
// Federation standard, and keeps them: in the CA, which tells nodes of them, and on disk.
//
//	file -> Parse -> a follower per domain: fetch -> check -> keep -> ca.Federate
//
// A bundle that came once is kept until a younger one comes or the file does not name the
// domain any more, whatever becomes of its endpoint.
package federation

import (
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// Bounds.
const (
	maxFile   = 64 << 10  // bytes of the file of federations
	maxBundle = 128 << 10 // bytes of a bundle, as it is sent
	maxHeader = 16 << 10
	maxFetch  = 10 * time.Second

	// DefaultRefresh is how often a bundle is fetched that does not say how often, as the
	// standard has it.
	DefaultRefresh = 5 * time.Minute
	// MinRefresh and MaxRefresh bound what a bundle says.
	MinRefresh = 5 * time.Second
	MaxRefresh = time.Hour
	// firstRetry is after how long a fetch that failed is tried again, at most. It doubles up
	// to DefaultRefresh.
	firstRetry = 5 * time.Second

	lookEvery = 2 * time.Second // at the file

	numberEvery = DefaultRefresh // a number alone is told
)

// pushRate bounds how often nodes are told what other domains change, of all of them together: a
// node answers each time, and the CA ends the stream of one that answers more than once a second.
var pushRate = rate.Limit{PerSecond: 0.1, Burst: 5}
