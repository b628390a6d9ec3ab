// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	checks   *prometheus.CounterVec
	duration prometheus.Histogram
	ttl      prometheus.Histogram
}

func newMetrics(parts ...prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_requests_total",
			Help: "Requests for a certificate by how they were answered, and the word for why: code OK is an issued one, and has none.",
		}, []string{"code", "reason"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_node_checks_total",
			Help: "Nodes' questions whether they would get certificates, by how they were answered: OK is yes.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "culvert_identity_request_duration_seconds",
			Help:    "How long requests took, waiting for placement included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .1, .25, 1, 2.5},
			// For servers that scrape native histograms, too.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
		ttl: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "culvert_identity_leaf_lifetime_seconds",
			Help:    "How long issued certificates are valid from when they were issued.",
			Buckets: []float64{30, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600},
		}),
	}
	m.requests.WithLabelValues(codes.OK.String(), "") // so that it starts at 0
	m.registry.MustRegister(parts...)
	m.registry.MustRegister(m.requests, m.checks, m.duration, m.ttl,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// answered counts a request for a certificate by its decision and error.
func (m *metrics) answered(d *decision, err error) {
	m.duration.Observe(time.Since(d.started).Seconds())
	if err != nil {
		m.requests.WithLabelValues(status.Code(err).String(), word(err)).Inc()
		return
	}
	m.requests.WithLabelValues(codes.OK.String(), "").Inc()
	m.ttl.Observe(d.issued.NotAfter.Sub(d.started).Seconds())
}

// Handler is /metrics and readiness: whether certificates can be had.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	s.handleReadiness(mux)
	return mux
}

// ServeMetrics serves Handler on ln until ctx ends.
func (s *Server) ServeMetrics(ctx context.Context, ln net.Listener) error {
	return serveHTTP(ctx, ln, "metrics", s.Handler())
}
