// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// lookupEvery is how old the addresses of a name may be when somebody is asked.
	lookupEvery = 5 * time.Second
	lookupFor   = 5 * time.Second
	lookupPause = 200 * time.Millisecond // at least between two lookups
)

// names are the addresses of the CA's host name.
type names struct {
	host, port string
	lookup     func(ctx context.Context, network, host string) ([]netip.Addr, error)

	ctx  context.Context // of lookups, until close
	end  context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex // guards what follows
	known []string
	err   error     // of the last lookup
	asked time.Time // when the last lookup began
	busy  bool
	// doubted: what is known may be wrong, so that it is looked up soon.
	doubted bool
}

func newNames(address string) *names {
	n := &names{lookup: net.DefaultResolver.LookupNetIP}
	n.host, n.port, _ = net.SplitHostPort(address)
	n.ctx, n.end = context.WithCancel(context.Background())
	return n
}

// addresses returns those that were found last, and has them looked up again if that
// was long ago. It does not wait: both results are nil while nothing is known yet. If
// a lookup fails, the addresses of the one before stay.
func (n *names) addresses() ([]string, error) {
	if _, err := netip.ParseAddr(n.host); err == nil {
		return []string{net.JoinHostPort(n.host, n.port)}, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	age := time.Since(n.asked)
	if (age >= lookupEvery || n.doubted && age >= lookupPause) && !n.busy && n.ctx.Err() == nil {
		n.busy, n.asked, n.err, n.doubted = true, time.Now(), nil, false
		n.done.Go(n.refresh)
	}
	return n.known, n.err
}

// doubt is for whoever found nobody at the addresses.
func (n *names) doubt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.doubted = true
}

func (n *names) refresh() {
	ctx, stop := context.WithTimeout(n.ctx, lookupFor)
	defer stop()
	found, err := n.lookup(ctx, "ip", n.host)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy = false
	if err != nil {
		n.err, n.doubted = err, true
		return
	}
	n.known = nil
	for _, addr := range found {
		n.known = append(n.known, net.JoinHostPort(addr.Unmap().String(), n.port))
	}
}

func (n *names) close() {
	n.end()
	n.done.Wait()
}
