// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	checks   *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetrics(cfg Config, refusals prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_requests_total",
			Help: "Requests for a certificate by how they were answered: OK is an issued one.",
		}, []string{"code"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_node_checks_total",
			Help: "Nodes' questions whether they would get certificates, by how they were answered: OK is yes.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "culvert_identity_request_duration_seconds",
			Help:    "How long requests took, waiting for placement included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .1, .25, 1, 2.5},
		}),
	}
	m.requests.WithLabelValues(codes.OK.String()) // so that it starts at 0
	m.registry.MustRegister(m.requests, m.checks, refusals, m.duration, &authority{ca: cfg.CA, events: cfg.Events},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) answered(code codes.Code, took time.Duration) {
	m.requests.WithLabelValues(code.String()).Inc()
	m.duration.Observe(took.Seconds())
}

// Handler is /metrics, and /healthz/ready: whether certificates can be had.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// ServeMetrics serves Handler on ln until ctx ends.
func (s *Server) ServeMetrics(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), MaxHeaderBytes: 8 << 10,
		ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(&door{Listener: ln, room: room{strangers: roomFor(descriptors()).metrics}}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
