// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the node agent carries and refuses, and serves
// the counts in the Prometheus formats.
//
// Traffic has the names and labels of Istio's ztunnel, so that its dashboards
// work unchanged; what only Culvert knows begins with culvert_.
//
// Byte counters move while a connection is open although nothing counts per
// write: every open connection is asked for its totals when a scrape begins,
// and once more when it ends. Carrying a byte costs no metric at all, and a
// connection resolves its label children once, when it opens. Peers choose what
// stands in the labels, so series.go bounds how many there are.
package metrics

import (
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what cannot be known from inside.
type Config struct {
	Version string // value of istio_build's tag; default "unknown"
}

// Metrics is one process's set of counters. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	traffic  traffic
	events   events
	pods     pods

	networkPolicies networkPolicies
	notAtSource     *prometheus.CounterVec
}

// New builds the counters, all zero.
func New(cfg Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.traffic.init(m.registry)
	m.events.init(m.registry)
	m.pods.init(m.registry)
	m.networkPolicies.init(m.registry)
	m.notAtSource = newNotAtSource(m.registry)

	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "istio_build",
		Help: "The version of this program.",
	}, []string{"component", "tag"})
	build.WithLabelValues("ztunnel", known(cfg.Version)).Set(1)
	m.registry.MustRegister(build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the Prometheus text format, OpenMetrics to those who accept
// it, compressed when asked.
func (m *Metrics) Handler() http.Handler {
	scrape := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
		ErrorHandling:       promhttp.ContinueOnError,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.traffic.settle()
		m.traffic.sweep()
		scrape.ServeHTTP(w, r)
	})
}

// CounterFunc publishes counters that somebody else keeps: f is asked at each
// scrape, and each of its keys becomes a value of label. It panics if name is
// taken, which is a mistake of the wiring.
func (m *Metrics) CounterFunc(name, help, label string, f func() map[string]uint64) {
	m.registry.MustRegister(&funcVec{
		desc: prometheus.NewDesc(name, help, []string{label}, nil),
		kind: prometheus.CounterValue,
		read: func() map[string]float64 {
			values := make(map[string]float64)
			for k, v := range f() {
				values[k] = float64(v)
			}
			return values
		},
	})
}

// GaugeFunc publishes values that somebody else keeps, like CounterFunc.
func (m *Metrics) GaugeFunc(name, help, label string, f func() map[string]float64) {
	m.registry.MustRegister(&funcVec{
		desc: prometheus.NewDesc(name, help, []string{label}, nil),
		kind: prometheus.GaugeValue,
		read: f,
	})
}

// funcVec is a family of one label whose values are read at scrape time.
type funcVec struct {
	mu   sync.Mutex // one scrape at a time asks read
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func() map[string]float64
}

func (v *funcVec) Describe(ch chan<- *prometheus.Desc) { ch <- v.desc }

func (v *funcVec) Collect(ch chan<- prometheus.Metric) {
	v.mu.Lock()
	values := v.read()
	v.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(values)) {
		ch <- prometheus.MustNewConstMetric(v.desc, v.kind, values[k], known(k))
	}
}

// known is what a label says about something: its name, or that there is none.
func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
