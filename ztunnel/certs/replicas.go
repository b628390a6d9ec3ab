// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

const (
	// shunFor is how long a replica that could not answer is asked after the others, and
	// how often at most a silent connection to it is given up for another.
	shunFor = 5 * time.Second
)

// hedges bounds how often a second replica is asked while the first may yet answer. A CA
// that is slow because all nodes ask it must not get twice the questions.
var hedges = rate.Limit{PerSecond: 1, Burst: 10}

// seat is a place for one connection to the CA. An address that is alone has two:
// behind it may be several replicas, as behind the address of a Service.
type seat struct {
	addr  string
	spare bool
}

// replica is one connection to the CA.
type replica struct {
	seat
	conn       *grpc.ClientConn
	ca         identityv1.IstioCertificateServiceClient
	node       identityv1.NodeServiceClient
	signer     identityv1.CertificateServiceClient
	istioUntil atomic.Int64 // Unix time in nanoseconds: it knows Istio's protocol only

	// Guarded by replicas.mu.
	underWay int       // questions
	heard    time.Time // last
	left     bool      // the last question that ends closes it
}

// record is what is remembered of a seat.
type record struct {
	shunned time.Time // until
	renewed time.Time // its connection, last
}

// replicas are the connections to the CA. They are made when they are first needed.
type replicas struct {
	dial func(addr string) (*grpc.ClientConn, error)

	mu      sync.Mutex // guards what follows
	open    map[seat]*replica
	records map[seat]record
	turn    int // so that all are asked in turn
	hedged  rate.Left
}

func newReplicas(dial func(string) (*grpc.ClientConn, error)) *replicas {
	return &replicas{dial: dial, open: map[seat]*replica{}, records: map[seat]record{}}
}

// take returns the best replica at these addresses that was not tried, or nil. Every
// replica that is taken is given back.
func (rs *replicas) take(addrs []string, tried map[seat]bool) (*replica, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	seats := seatsOf(addrs)
	rs.keep(seats)
	rs.turn++
	best, found := seat{}, false
	for i := range seats {
		s := seats[(rs.turn+i)%len(seats)]
		if !tried[s] && (!found || rs.rank(s, addrs) < rs.rank(best, addrs)) {
			best, found = s, true
		}
	}
	if !found {
		return nil, nil
	}
	tried[best] = true
	r := rs.open[best]
	if r == nil {
		conn, err := rs.dial(best.addr)
		if err != nil {
			return nil, err
		}
		r = &replica{
			seat: best, conn: conn, ca: identityv1.NewIstioCertificateServiceClient(conn),
			node: identityv1.NewNodeServiceClient(conn), signer: identityv1.NewCertificateServiceClient(conn),
		}
		rs.open[best] = r
	}
	r.underWay++
	return r, nil
}

func seatsOf(addrs []string) []seat {
	seats := make([]seat, 0, 2)
	for _, addr := range addrs {
		seats = append(seats, seat{addr: addr})
	}
	if len(addrs) == 1 {
		seats = append(seats, seat{addrs[0], true})
	}
	return seats
}

// rank is lower for what is better: one that answers, and of the first address's
// family, so that the two addresses of one replica are not tried one after the other.
func (rs *replicas) rank(s seat, addrs []string) int {
	rank := 0
	if time.Now().Before(rs.records[s].shunned) {
		rank += 2
	}
	if isIPv4(s.addr) != isIPv4(addrs[0]) {
		rank++
	}
	return rank
}

func isIPv4(addr string) bool {
	parsed, err := netip.ParseAddrPort(addr)
	return err == nil && parsed.Addr().Unmap().Is4()
}

// keep leaves what has no seat any more; mu is held.
func (rs *replicas) keep(seats []seat) {
	there := make(map[seat]bool, len(seats))
	for _, s := range seats {
		there[s] = true
	}
	for s, r := range rs.open {
		if !there[s] {
			rs.leave(r)
		}
	}
	for s := range rs.records {
		if !there[s] {
			delete(rs.records, s)
		}
	}
}

// leave gives up a connection, after what is under way in it; mu is held.
func (rs *replicas) leave(r *replica) {
	if rs.open[r.seat] == r {
		delete(rs.open, r.seat)
	}
	r.left = true
	if r.underWay == 0 {
		r.conn.Close()
	}
}

// give returns a replica that was taken. If it could not answer, it is shunned.
func (rs *replicas) give(r *replica, able bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.heard = time.Now()
	if !able {
		rs.shun(r)
	}
	rs.drop(r)
}

// abandon returns a replica that has not answered a question of that time yet.
func (rs *replicas) abandon(r *replica, asked time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if time.Since(asked) >= hedgeAfter {
		rs.doubt(r, asked)
	}
	rs.drop(r)
}

// silent is for whoever still waits for an answer to a question of that time.
func (rs *replicas) silent(r *replica, asked time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.doubt(r, asked)
}

// doubt shuns a replica that is silent. If nothing at all was heard in its connection
// since it was asked, another takes that place: to the address of a Service, it may
// lead to another replica. mu is held.
func (rs *replicas) doubt(r *replica, asked time.Time) {
	rs.shun(r)
	rec := rs.records[r.seat]
	if r.left || r.heard.After(asked) || time.Since(rec.renewed) < shunFor {
		return
	}
	rec.renewed = time.Now()
	rs.records[r.seat] = rec
	rs.leave(r)
}

// shun needs mu held.
func (rs *replicas) shun(r *replica) {
	rec := rs.records[r.seat]
	rec.shunned = time.Now().Add(shunFor)
	rs.records[r.seat] = rec
}

// putBack returns a replica that was taken, and not asked.
func (rs *replicas) putBack(r *replica, tried map[seat]bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(tried, r.seat)
	rs.drop(r)
}

// drop counts a question out; mu is held.
func (rs *replicas) drop(r *replica) {
	if r.underWay--; r.left && r.underWay == 0 {
		r.conn.Close()
	}
}

// mayHedge reports whether another replica may be asked beside those. That is free while
// none of them is connected.
func (rs *replicas) mayHedge(asked []*replica) bool {
	connected := func(r *replica) bool { return r.conn.GetState() == connectivity.Ready }
	if !slices.ContainsFunc(asked, connected) {
		return true
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.hedged.Spend(hedges)
}

// close ends all connections, and what is under way in them.
func (rs *replicas) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for s, r := range rs.open {
		delete(rs.open, s)
		r.conn.Close()
	}
}
