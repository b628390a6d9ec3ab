// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/culvert-mesh/culvert/loopback"
)

// AdminHandler is /config_dump, for the processes of this machine.
func (s *Server) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config_dump", func(w http.ResponseWriter, _ *http.Request) {
		body, err := json.MarshalIndent(s.dump(), "", "  ")
		if err != nil {
			http.Error(w, "encode the configuration: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(body, '\n'))
	})
	return loopback.Only(mux)
}

// ServeAdmin serves AdminHandler on ln, a listener of loopback.Listen, until ctx ends.
func (s *Server) ServeAdmin(ctx context.Context, ln net.Listener) error {
	return serveHTTP(ctx, ln, "the admin address", s.AdminHandler())
}

// serveHTTP serves small requests until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, what string, handler http.Handler) error {
	return serveOn(ctx, newDoor(ln, room{strangers: roomFor(descriptors()).metrics}, 0), what, handler, nil)
}

// serveOn serves small requests until ctx ends, in TLS if it is configured.
func serveOn(ctx context.Context, ln net.Listener, what string, handler http.Handler, config *tls.Config) error {
	server := &http.Server{
		Handler: handler, MaxHeaderBytes: 8 << 10, TLSConfig: config,
		ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	serve := server.Serve
	if config != nil {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		serve = func(ln net.Listener) error { return server.ServeTLS(ln, "", "") }
	}
	if err := serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", what, err)
	}
	return nil
}
