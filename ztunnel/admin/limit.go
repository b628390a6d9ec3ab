// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// limit lets n connections of ln be open at a time: these endpoints must not use up the
// file descriptors that the pods' connections need. Nor may one client keep others out:
// for one connection more, the client that holds most loses its oldest.
func limit(ln net.Listener, n int) net.Listener { return &limited{Listener: ln, n: n} }

type limited struct {
	net.Listener
	n int

	mu   sync.Mutex // guards what follows
	open []*counted // the oldest first
}

// counted is an open connection of a client.
type counted struct {
	net.Conn
	client netip.Addr // invalid for a unix socket, whose clients count as one
	of     *limited
}

func (l *limited) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &counted{Conn: conn, of: l}
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.client = addr.AddrPort().Addr().Unmap()
	}
	if lost := l.add(c); lost != nil {
		lost.Conn.Close() // whoever serves it closes it, too
	}
	return c, nil
}

// add returns the connection in whose place c is.
func (l *limited) add(c *counted) (lost *counted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == l.n {
		i := l.oldestOfMost()
		lost = l.open[i]
		l.open = slices.Delete(l.open, i, i+1)
	}
	l.open = append(l.open, c)
	return lost
}

// oldestOfMost requires that l.mu is held and that there are connections.
func (l *limited) oldestOfMost() (index int) {
	held, most := map[netip.Addr]int{}, 0
	for i, c := range slices.Backward(l.open) {
		if held[c.client]++; held[c.client] >= most {
			index, most = i, held[c.client]
		}
	}
	return index
}

func (c *counted) Close() error {
	c.of.remove(c)
	return c.Conn.Close()
}

func (l *limited) remove(c *counted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.open, c); i >= 0 {
		l.open = slices.Delete(l.open, i, i+1)
	}
}
