// SPDX-License-Identifier: Apache-2.0

// Package admin serves what an operator reads from a node agent, and the
// little that they change.
//
// Reading is by TCP: metrics, readiness, and on loopback the configuration
// dump. Whatever changes state, and pprof, which shows memory, is on a unix
// socket that only root can reach: the file's mode, its directory's, and the
// kernel's word for the caller's uid each suffice to keep others out.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/culvert-mesh/culvert/loopback"
	"github.com/culvert-mesh/culvert/unixsocket"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
)

// Config says where to listen and what to serve.
type Config struct {
	MetricsAddress string // for scrapes; default ":15020"
	ReadyAddress   string // for the readiness probe; default ":15021"
	AdminAddress   string // for reading the configuration, a loopback address; default "127.0.0.1:15000"
	Socket         string // path of the unix socket for changes and pprof; required

	Metrics http.Handler          // serves /metrics; required
	Pending func() []string       // what readiness waits for, a line each; required
	Dumps   map[string]func() any // top-level keys of /config_dump; default none
	Events  http.Handler          // serves /events; default none
	Renew   Renew                 // asked for by /certs/renew; required
	Probe   Probe                 // asked for by /probe; required
	Verify  Probe                 // asked for by /verify; required
	Quit    func()                // asked for by /quitquitquit; required
	Levels  *loglevel.Levels      // set by /logging; required
}

// Renew has the certificates of identities renewed now, of all if none is named, and returns
// what came of each, for JSON. An error is a mistake of the caller's.
type Renew func(ctx context.Context, identities []string) (any, error)

// Probe has something tried that a query names, and returns what came of it, for JSON. An
// error is a mistake of the caller's.
type Probe func(ctx context.Context, query url.Values) (any, error)

const (
	probeTimeout    = 12 * time.Second // of one Probe
	headerTimeout   = 2 * time.Second
	exchangeTimeout = 10 * time.Second // of a whole exchange over TCP
	idleTimeout     = 30 * time.Second
	maxHeader       = 8 << 10
	maxBody         = 4 << 10
	maxConns        = 256 // at a time on one address: see limit
	grace           = time.Second
	maxRenew        = 32               // identities that one request names
	renewTimeout    = 30 * time.Second // for all of a request
)

// endpoint is one listener and what it serves.
type endpoint struct {
	name     string
	listener net.Listener
	handler  http.Handler
	timeout  time.Duration // of a whole exchange; zero: none, for long profiles
}

// Server serves the endpoints that Open opened.
type Server struct {
	endpoints []endpoint
	socket    *unixsocket.Listener // also one of them
}

// Open opens the listeners, so that a port which is taken is known at start.
func Open(cfg Config) (*Server, error) {
	s := &Server{}
	err := errors.Join(
		s.openTCP("metrics", cfg.MetricsAddress, ":15020", metricsHandler(cfg)),
		s.openTCP("readiness", cfg.ReadyAddress, ":15021", readyHandler(cfg)),
		s.openLoopback("admin", cfg.AdminAddress, "127.0.0.1:15000", readHandler(cfg)),
		s.openSocket("admin socket", cfg.Socket, changeHandler(cfg)),
	)
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) openTCP(name, address, otherwise string, h http.Handler) error {
	if address == "" {
		address = otherwise
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.endpoints = append(s.endpoints, endpoint{name, limit(ln, maxConns), h, exchangeTimeout})
	return nil
}

func (s *Server) openLoopback(name, address, otherwise string, h http.Handler) error {
	if address == "" {
		address = otherwise
	}
	ln, err := loopback.Listen(address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.endpoints = append(s.endpoints, endpoint{name, limit(ln, maxConns), h, exchangeTimeout})
	return nil
}

func (s *Server) openSocket(name, path string, h http.Handler) error {
	ln, err := unixsocket.Listen(path)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.socket = ln
	s.endpoints = append(s.endpoints, endpoint{name, limit(ln, maxConns), h, 0})
	return nil
}

// Addr returns where an endpoint listens: "metrics", "readiness", "admin" or
// "admin socket".
func (s *Server) Addr(name string) net.Addr {
	for _, e := range s.endpoints {
		if e.name == name {
			return e.listener.Addr()
		}
	}
	return nil
}

// Keep opens the unix socket anew if another hand removed or replaced it, and
// reports whether one did. Connections that are open go on.
func (s *Server) Keep() (replaced bool, err error) { return s.socket.Keep() }

// Close closes the listeners of a server that is not run.
func (s *Server) Close() {
	for _, e := range s.endpoints {
		e.listener.Close()
	}
}

// Run serves until ctx is done, then lets requests finish for a second.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error)
	for _, e := range s.endpoints {
		go func() {
			err := serve(ctx, e)
			cancel(err) // one that cannot serve ends them all
			ended <- err
		}()
	}
	var problems error
	for range s.endpoints {
		problems = errors.Join(problems, <-ended)
	}
	return problems
}

// serve returns nil if ctx ended it.
func serve(ctx context.Context, e endpoint) error {
	// Requests end with ctx, so that a long profile does not hold up the exit.
	server := &http.Server{
		Handler:           http.MaxBytesHandler(e.handler, maxBody),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       e.timeout,
		WriteTimeout:      e.timeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // clients' mistakes
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(late) != nil {
			server.Close()
		}
	})
	err := server.Serve(e.listener)
	if stop() { // ctx lives: the listener broke
		return fmt.Errorf("serve %s: %w", e.name, err)
	}
	<-stopped
	return nil
}
