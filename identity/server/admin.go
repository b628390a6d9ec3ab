// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-mesh/culvert/loopback"
)

// AdminHandler is /config_dump and the ledger's files, for the processes of this machine.
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
	mux.HandleFunc("GET /ledger", s.listLedger)
	mux.HandleFunc("GET /ledger/{name}", s.copyLedger)
	return loopback.Only(mux)
}

// ledgerPiece is how much of a file of the ledger goes into an answer, which must be there
// within the seconds that serveHTTP gives it.
const ledgerPiece = 4 << 20

// listLedger names the files of the ledger, in the order in which to copy them.
func (s *Server) listLedger(w http.ResponseWriter, _ *http.Request) {
	kept := s.accountant.ledger.Load()
	if kept == nil {
		http.Error(w, "this replica keeps no ledger (-ledger), or could not open it yet", http.StatusNotFound)
		return
	}
	names, err := kept.Names()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		Files []string `json:"files"`
		Piece int      `json:"piece"` // bytes of each answer but a file's last
	}{names, ledgerPiece})
}

// copyLedger answers with a piece of one of them, from the offset that the query names.
func (s *Server) copyLedger(w http.ResponseWriter, r *http.Request) {
	kept := s.accountant.ledger.Load()
	from, err := strconv.ParseInt(cmp.Or(r.FormValue("from"), "0"), 10, 64)
	switch {
	case kept == nil:
		http.Error(w, "this replica keeps no ledger", http.StatusNotFound)
		return
	case err != nil || from < 0:
		http.Error(w, "from: want an offset in bytes", http.StatusBadRequest)
		return
	}
	piece, err := kept.Piece(r.PathValue("name"), from, ledgerPiece)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(piece)
	}
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
