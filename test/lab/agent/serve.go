// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxServed bounds what a server remembers of the connections it had.
const maxServed = 20000

// running is a server that accepts.
type running struct {
	spec     Server
	accepted func(Served) // told of each new connection; may be nil

	mu   sync.Mutex // guards what follows
	list []*Served
}

func (s *server) serve(_ context.Context, spec Server) (opened, error) {
	ln, err := listenSocket(spec.Socket, 0)
	if err != nil {
		return opened{}, err
	}
	r := &running{spec: spec}
	id := s.keep(ln)
	s.mu.Lock()
	s.servers[id] = r
	s.mu.Unlock()
	names := ln.names()
	if err := r.check(); err != nil {
		ln.file.Close()
		return opened{}, err
	}
	go func() { _ = r.run(ln) }()
	return opened{ID: id, Names: names}, nil
}

// ServeUntil serves spec as an ordinary program does, telling accepted of each
// new connection, until ctx is done. ready is told the listener's address.
func ServeUntil(ctx context.Context, spec Server, ready func(netip.AddrPort), accepted func(Served)) error {
	r := &running{spec: spec, accepted: accepted}
	if err := r.check(); err != nil {
		return err
	}
	ln, err := listenSocket(spec.Socket, 0)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { ln.file.Close() })()
	ready(ln.names().Local)
	if err := r.run(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *server) served(_ context.Context, a idArgs) ([]Served, error) {
	s.mu.Lock()
	r := s.servers[a.ID]
	s.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("server %d: %w", a.ID, net.ErrClosed)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Served, len(r.list))
	for i, one := range r.list {
		list[i] = *one
	}
	return list, nil
}

func (r *running) run(ln *socket) error {
	if r.spec.Kind == HTTP {
		return r.serveHTTP(ln)
	}
	if !ln.stream {
		return r.echoDatagrams(ln)
	}
	for {
		sock, err := ln.accept(context.Background())
		if err != nil {
			return err
		}
		one := r.begin(sock.names())
		go r.handle(sock, one)
	}
}

// echoDatagrams sends each datagram back to where it came from.
func (r *running) echoDatagrams(ln *socket) error {
	buf := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if rerr := ln.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return err != unix.EAGAIN
		}); rerr != nil {
			return rerr
		}
		if err != nil {
			return err
		}
		r.begin(Names{Local: ln.names().Local, Peer: addrPort(from)})
		if cerr := ln.raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), buf[:n], 0, from) }); cerr != nil {
			return cerr
		}
		if err != nil {
			return err
		}
	}
}

func (r *running) begin(names Names) *Served {
	one := &Served{Names: names}
	r.mu.Lock()
	if len(r.list) < maxServed {
		r.list = append(r.list, one)
	}
	r.mu.Unlock()
	if r.accepted != nil {
		r.accepted(*one)
	}
	return one
}

// counted counts a connection's bytes into its record.
type counted struct {
	*socket
	r   *running
	one *Served
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	c.r.mu.Lock()
	c.one.Received += int64(n)
	c.r.mu.Unlock()
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	c.r.mu.Lock()
	c.one.Sent += int64(n)
	c.r.mu.Unlock()
	return n, err
}

func (r *running) handle(sock *socket, one *Served) {
	err := handlers[r.spec.Kind](counted{sock, r, one}, r.spec)
	sock.file.Close()
	r.mu.Lock()
	one.End = endOf(err)
	r.mu.Unlock()
}

func (r *running) check() error {
	if handlers[r.spec.Kind] == nil && r.spec.Kind != HTTP {
		return fmt.Errorf("unknown kind of server %q", r.spec.Kind)
	}
	return nil
}

var handlers = map[Kind]func(counted, Server) error{
	Echo: func(c counted, _ Server) error { return echo(c) },
	SpeakFirst: func(c counted, _ Server) error {
		if _, err := c.Write([]byte(youAre(c.names().Peer))); err != nil {
			return err
		}
		return echo(c)
	},
	Sink: func(c counted, _ Server) error {
		n, hash, err := receive(c, -1, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c, "%d %s\n", n, hash)
		return err
	},
	Discard: func(c counted, _ Server) error { return drain(c) },
	Source: func(c counted, spec Server) error {
		if _, _, err := sendStream(c, Transfer{Send: spec.Size, Seed: spec.Seed}, nil); err != nil {
			return err
		}
		if err := c.closeWrite(); err != nil {
			return err
		}
		return drain(c)
	},
	Reset: func(c counted, _ Server) error {
		_, err := c.Read(make([]byte, 1))
		return errors.Join(err, c.reset())
	},
	Hold: func(counted, Server) error { select {} },
}

func youAre(peer netip.AddrPort) string {
	return fmt.Sprintf("you are %v\n", netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
}

func echo(c counted) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, werr := c.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return c.closeWrite()
		}
		if err != nil {
			return err
		}
	}
}

func drain(c counted) error {
	buf := make([]byte, 256<<10)
	for {
		if _, err := c.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *running) serveHTTP(ln *socket) error {
	l, err := net.FileListener(ln.file) // a duplicate: close both
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		peer, _ := netip.ParseAddrPort(req.RemoteAddr)
		fmt.Fprint(w, youAre(peer))
	})}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.begin(Names{Local: netAddr(c.LocalAddr()), Peer: netAddr(c.RemoteAddr())})
		}
	}
	done := make(chan struct{})
	go func() {
		// The duplicate would keep the port open when the test closes its end.
		_ = ln.raw.Read(func(uintptr) bool { return isClosed(done) })
		srv.Close()
	}()
	defer close(done)
	err = srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return os.ErrClosed
	}
	return err
}

func isClosed(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func netAddr(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
