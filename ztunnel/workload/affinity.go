// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxClients bounds what all Services together remember of sessionAffinity ClientIP.
// Each port of such a Service has an equal share.
const maxClients = 1 << 16

// choice is the endpoints among which connections are led.
type choice struct {
	endpoints []endpoint
	clients   *clients               // nil: at random
	places    map[netip.AddrPort]int // in endpoints; nil: none was made
}

// newChoice needs O(len(endpoints)) if clients are remembered.
func newChoice(endpoints []endpoint, c *clients) choice {
	if c == nil {
		return choice{endpoints: endpoints}
	}
	places := make(map[netip.AddrPort]int, len(endpoints))
	for i, e := range endpoints {
		places[e.addr] = i
	}
	return choice{endpoints, c, places}
}

// choose leads a client to the endpoint where it was last, if the Service wants that
// and the endpoint is still there, else to any. There must be one.
func (c choice) choose(client netip.Addr) endpoint {
	if c.clients == nil || !client.IsValid() {
		return c.any()
	}
	return c.clients.lead(client, c, time.Now())
}

func (c choice) any() endpoint { return c.endpoints[rand.IntN(len(c.endpoints))] }

// find returns the endpoint of that address, if it is one.
func (c choice) find(addr netip.AddrPort) (endpoint, bool) {
	place, ok := c.places[addr]
	if c.places == nil {
		place = slices.IndexFunc(c.endpoints, func(e endpoint) bool { return e.addr == addr })
		ok = place >= 0
	}
	if !ok {
		return endpoint{}, false
	}
	return c.endpoints[place], true
}

// clients are those of one port of a Service with sessionAffinity ClientIP, and the
// endpoint to which each was led last. One snapshot hands them on to the next.
type clients struct {
	mu    sync.Mutex
	share int           // how many it may remember
	after time.Duration // a client that has opened no connection for so long is forgotten
	last  map[netip.Addr]visit
}

type visit struct {
	to netip.AddrPort
	at time.Time
}

// lead chooses from c and remembers it.
func (k *clients) lead(client netip.Addr, c choice, now time.Time) endpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	last, known := k.last[client]
	e, there := c.find(last.to)
	if !known || !there || now.Sub(last.at) >= k.after {
		e = c.any()
	}
	if !known && len(k.last) >= k.share {
		k.evictLocked()
	}
	k.last[client] = visit{e.addr, now}
	return e
}

// evictLocked forgets the oldest of a few clients: to find the oldest of all would
// cost a connection too much.
func (k *clients) evictLocked() {
	var oldest netip.Addr
	looked := 0
	for client, v := range k.last {
		if looked == 0 || v.at.Before(k.last[oldest].at) {
			oldest = client
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(k.last, oldest)
}

// handOn applies a new snapshot: endpoints that are not usable any more are forgotten
// at once, so that nobody is led back to one that returns.
func (k *clients) handOn(share int, after time.Duration, usable map[netip.AddrPort]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.share, k.after = share, after
	now := time.Now()
	for client, v := range k.last {
		if !usable[v.to] || now.Sub(v.at) >= after || len(k.last) > share {
			delete(k.last, client)
		}
	}
}

// stickyPort names a port of a Service from one snapshot to the next.
type stickyPort struct {
	namespace, name string
	port            uint16
}

// addClients takes over what is remembered for each port with session affinity. It
// needs all workloads and nodes added.
func (idx *index) addClients(before *index, inside func(netip.Addr) bool) {
	ports := 0
	for i := range idx.mesh.Services {
		if s := &idx.mesh.Services[i]; s.Affinity > 0 {
			ports += len(s.Ports)
		}
	}
	for i := range idx.mesh.Services {
		s := &idx.mesh.Services[i]
		if s.Affinity <= 0 {
			continue
		}
		for _, port := range s.Ports {
			key := stickyPort{s.Namespace, s.Name, port.Port}
			k := before.clients[key]
			if k == nil {
				k = &clients{last: map[netip.Addr]visit{}}
			}
			k.handOn(max(1, maxClients/ports), s.Affinity, idx.usable(port, inside))
			idx.clients[key] = k
		}
	}
}

// usable are the endpoints that any traffic policy may choose.
func (idx *index) usable(port ServicePort, inside func(netip.Addr) bool) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for _, v4 := range []bool{true, false} {
		all := idx.endpoints(port.Endpoints, v4, inside)
		for _, e := range slices.Concat(clusterEndpoints(all, idx.here), localEndpoints(all, idx.here.node)) {
			out[e.addr] = true
		}
	}
	return out
}

func (idx *index) clientsOf(s *Service, port ServicePort) *clients {
	return idx.clients[stickyPort{s.Namespace, s.Name, port.Port}]
}
