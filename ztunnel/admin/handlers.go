// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/loopback"
)

func metricsHandler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", cfg.Metrics)
	mux.Handle("GET /stats/prometheus", cfg.Metrics)
	return mux
}

// readyHandler answers 503 with one line for each thing that is pending.
func readyHandler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if pending := cfg.Pending(); len(pending) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "not ready\n%s\n", strings.Join(pending, "\n"))
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// readHandler is what any process in ztunnel's network namespace may read.
func readHandler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", index("/config_dump", "/events", "/logging"))
	mux.HandleFunc("GET /config_dump", dumpHandler(cfg))
	if cfg.Events != nil {
		mux.Handle("GET /events", cfg.Events)
	}
	mux.HandleFunc("GET /logging", levelHandler(cfg))
	mux.HandleFunc("POST /logging", levelHandler(cfg)) // as istioctl ztunnel-config log asks
	return loopback.Only(mux)
}

// dumpHandler writes all of Dumps.
func dumpHandler(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		dump := make(map[string]any, len(cfg.Dumps))
		for _, key := range slices.Sorted(maps.Keys(cfg.Dumps)) {
			dump[key] = cfg.Dumps[key]()
		}
		body, err := json.MarshalIndent(dump, "", "  ")
		if err != nil {
			http.Error(w, "encode the configuration: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(body, '\n'))
	}
}

// levelHandler answers the log levels, and refuses to change it.
func levelHandler(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if query := r.URL.Query(); query.Get("level") != "" || query.Has("reset") {
			http.Error(w, "the log level is changed by root alone: curl --unix-socket "+cfg.Socket+" -X POST 'http://ztunnel/logging?level=debug'", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, cfg.Levels)
	}
}

// changeHandler is for root.
func changeHandler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", index("/config_dump", "/certs/renew", "/probe", "/verify", "/logging", "/quitquitquit", "/debug/pprof/"))
	mux.HandleFunc("POST /logging", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch {
		case query.Has("reset"):
			cfg.Levels.Reset()
		case query.Has("level"):
			if err := cfg.Levels.Set(query.Get("level")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		fmt.Fprint(w, cfg.Levels)
	})
	mux.HandleFunc("GET /config_dump", dumpHandler(cfg))
	mux.HandleFunc("POST /certs/renew", renewHandler(cfg.Renew))
	mux.HandleFunc("POST /probe", probeHandler(cfg.Probe))
	mux.HandleFunc("POST /verify", probeHandler(cfg.Verify))
	mux.HandleFunc("POST /quitquitquit", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "shutting down")
		cfg.Quit()
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// renewHandler wants id=IDENTITY, which may be given again, or all.
func renewHandler(renew Renew) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		ids, all := query["id"], query.Has("all")
		switch {
		case all == (len(ids) > 0):
			http.Error(w, "want id=IDENTITY, or all", http.StatusBadRequest)
			return
		case len(ids) > maxRenew:
			http.Error(w, fmt.Sprintf("%d identities, the limit is %d: want fewer, or all", len(ids), maxRenew), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeoutCause(r.Context(), renewTimeout, errors.New("no answer within "+renewTimeout.String()))
		defer cancel()
		renewed, err := renew(ctx, ids)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(renewed) // a caller that went is no matter
	}
}

// probeHandler hands the query on.
func probeHandler(probe Probe) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), probeTimeout, errors.New("no answer within "+probeTimeout.String()))
		defer cancel()
		proof, err := probe(ctx, r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(proof) // a caller that went is no matter
	}
}

func index(paths ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintln(w, "<!doctype html><title>ztunnel</title><h1>ztunnel</h1><ul>")
		for _, p := range paths {
			fmt.Fprintf(w, "<li><a href=%q>%s</a></li>\n", html.EscapeString(p), html.EscapeString(p))
		}
		fmt.Fprintln(w, "</ul>")
	}
}
