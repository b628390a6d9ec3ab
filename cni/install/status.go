// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// What can be repaired.
const (
	repairedBinary = iota
	repairedEntry
	repairable
)

// status is what others may know of an installer.
type status struct {
	mu       sync.Mutex // guards all below
	ready    bool       // both were in place at the last look
	problem  string     // why not
	fight    bool
	repairs  [repairable]uint64
	failures uint64
}

func (s *status) set(change func(*status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// Serve answers /metrics and /healthz/ready on ln until ctx ends. It closes ln.
func (in *Installer) Serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", in.status.metrics)
	mux.HandleFunc("GET /healthz/ready", in.status.healthz)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *status) healthz(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	ready, problem := s.ready, s.problem
	s.mu.Unlock()
	if !ready {
		http.Error(w, problem, http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ready\n")
}

// metrics writes the text format of Prometheus. Its client library would be read
// from disk and set up at each start of the plugin, which is the same program.
func (s *status) metrics(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	family := func(name, kind, help string) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	const (
		installed = "culvert_cni_installed"
		fight     = "culvert_cni_fight"
		repairs   = "culvert_cni_repairs_total"
		failures  = "culvert_cni_failures_total"
	)
	family(installed, "gauge", "1 while the plugin is in place, and last in the list of plugins.")
	fmt.Fprintf(w, "%s %d\n", installed, number(s.ready))
	family(fight, "gauge", "1 while another program takes the plugin's entry out again and again.")
	fmt.Fprintf(w, "%s %d\n", fight, number(s.fight))
	family(repairs, "counter", "What another program took away and was found missing, by kind.")
	fmt.Fprintf(w, "%s{what=\"binary\"} %d\n%s{what=\"entry\"} %d\n", repairs, s.repairs[repairedBinary], repairs, s.repairs[repairedEntry])
	family(failures, "counter", "Looks at which the plugin could not be put in place.")
	fmt.Fprintf(w, "%s %d\n", failures, s.failures)
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
