// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// rekeyScale is how large the mesh is in which a root is re-keyed, and what it carries.
type rekeyScale struct {
	nodes, identities int
	streams           int // that stay open
	rate              int // new connections in a second
	ttl, limit        time.Duration
}

// scaleOf is what two cores carry beside other tests, or what T_ROOT says: NODES IDENTITIES
// STREAMS RATE TTL, as make t-root sets it.
func scaleOf(t *testing.T) rekeyScale {
	t.Helper()
	asked := os.Getenv("T_ROOT")
	if asked == "" {
		return rekeyScale{nodes: 3, identities: 10, streams: 250, rate: 125, ttl: 25 * time.Second, limit: 90 * time.Second}
	}
	s := rekeyScale{limit: 15 * time.Minute}
	var ttl string
	n, err := fmt.Sscan(asked, &s.nodes, &s.identities, &s.streams, &s.rate, &ttl)
	if err == nil {
		s.ttl, err = time.ParseDuration(ttl)
	}
	if err != nil || s.nodes < 2 || s.identities < 2 || s.streams < s.identities/2 || s.rate < 1 {
		t.Fatalf("T_ROOT=%q (%d values, %v): want NODES IDENTITIES STREAMS RATE TTL, as 20 200 2000 500 60s", asked, n, err)
	}
	return s
}
