// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"sync"
	"time"
)

// live is the open connections of a pod that a policy has allowed.
type live struct {
	mu    sync.Mutex
	conns map[*connection]func() error
}

func (l *live) add(c *connection, allowed func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = make(map[*connection]func() error)
	}
	l.conns[c] = allowed
}

func (l *live) remove(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// all returns the connections and their checks, to be asked without a lock.
func (l *live) all() map[*connection]func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[*connection]func() error, len(l.conns))
	for c, allowed := range l.conns {
		all[c] = allowed
	}
	return all
}

// Recheck asks the policies in force about every open connection, and ends
// those that they do not allow any more. Call it after each change of policies
// or workloads has been put in force.
func (p *Pod) Recheck() {
	for c, allowed := range p.live.all() {
		if err := allowed(); err != nil {
			c.cancel(fail(PolicyChanged, fmt.Errorf("connection closed due to policy change: %w", err)))
			c.cutIfOver()
		}
	}
}

// Connection is an open connection in the configuration dump.
type Connection struct {
	Direction   string `json:"direction"`
	Path        string `json:"path"`
	Src         string `json:"src"`
	SrcIdentity string `json:"srcIdentity,omitempty"`
	Dst         string `json:"dst"`
	DstIdentity string `json:"dstIdentity,omitempty"`
	Since       string `json:"since"`
	BytesSent   uint64 `json:"bytesSent"`
	BytesRecv   uint64 `json:"bytesRecv"`
}

// Connections returns the connections that are open.
func (p *Pod) Connections() []Connection {
	p.live.mu.Lock()
	defer p.live.mu.Unlock()
	conns := make([]Connection, 0, len(p.live.conns))
	for c := range p.live.conns {
		sent, received := c.carried()
		conns = append(conns, Connection{
			Direction: string(c.direction), Path: c.path,
			Src: c.src.addr.String(), SrcIdentity: c.src.identity,
			Dst: c.target().String(), DstIdentity: c.dst.identity,
			Since: c.start.UTC().Format(time.RFC3339), BytesSent: sent, BytesRecv: received,
		})
	}
	return conns
}
