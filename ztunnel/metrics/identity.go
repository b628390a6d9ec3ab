// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Certificates is how it stands with the node's certificates.
type Certificates struct {
	Held     map[string]int  // identities by the state of their certificate
	Lives    map[string]Life // of each identity's certificate
	Issued   uint64          // requests to the CA
	Failed   map[string]uint64
	InFlight int // of them, now
}

// Life is how long a certificate lives, and when it is replaced.
type Life struct {
	Until    time.Time     // zero: none came yet
	Lifetime time.Duration // from when it came
	Next     time.Time     // attempt to get another
	Overdue  bool          // it should have been replaced by now
}

// Certificates publishes the state of the node's certificates, by f, which is
// asked once at each scrape.
func (m *Metrics) Certificates(f func() Certificates) {
	m.registry.MustRegister(certificates(f))
}

type certificates func() Certificates

var (
	heldDesc = prometheus.NewDesc("culvert_certificates",
		"Identities of this node's pods by the state of their certificate.", []string{"state"}, nil)
	expiryDesc = prometheus.NewDesc("culvert_certificate_expiry_timestamp_seconds",
		"When the certificate of an identity expires or expired.", []string{"identity"}, nil)
	lifetimeDesc = prometheus.NewDesc("culvert_certificate_lifetime_seconds",
		"How long the certificate of an identity is good for, from when it came.", []string{"identity"}, nil)
	nextDesc = prometheus.NewDesc("culvert_certificate_next_request_timestamp_seconds",
		"When the CA is next asked for a certificate of an identity.", []string{"identity"}, nil)
	overdueDesc = prometheus.NewDesc("culvert_certificate_renewal_overdue",
		"Identities whose certificate has lived for three quarters of its life, or longer, and was not replaced.", nil, nil)
	requestsDesc = prometheus.NewDesc("culvert_certificate_requests_total",
		"Requests to the CA for a certificate, by how they ended.", []string{"result"}, nil)
	failuresDesc = prometheus.NewDesc("culvert_certificate_failures_total",
		"Requests to the CA for a certificate that failed, by the word for why.", []string{"reason"}, nil)
	openDesc = prometheus.NewDesc("culvert_certificate_requests_open",
		"Requests to the CA for a certificate under way.", nil, nil)
	timeDesc = prometheus.NewDesc("culvert_time_seconds",
		"What the clock of this node says: compared with the time of a scrape, it tells a clock that is off.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (certificates) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{heldDesc, expiryDesc, lifetimeDesc, nextDesc, overdueDesc, requestsDesc, failuresDesc, openDesc, timeDesc} {
		out <- desc
	}
}

// Collect is part of prometheus.Collector.
func (f certificates) Collect(out chan<- prometheus.Metric) {
	c := f()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for state, n := range c.Held {
		gauge(heldDesc, float64(n), state)
	}
	overdue := 0
	for _, id := range slices.Sorted(maps.Keys(c.Lives)) {
		life := c.Lives[id]
		gauge(nextDesc, unix(life.Next), id)
		if life.Overdue {
			overdue++
		}
		if !life.Until.IsZero() {
			gauge(expiryDesc, unix(life.Until), id)
			gauge(lifetimeDesc, life.Lifetime.Seconds(), id)
		}
	}
	gauge(overdueDesc, float64(overdue))
	failed := uint64(0)
	for reason, n := range c.Failed {
		failed += n
		counter(failuresDesc, n, reason)
	}
	counter(requestsDesc, c.Issued, "issued")
	counter(requestsDesc, failed, "failed")
	gauge(openDesc, float64(c.InFlight))
	gauge(timeDesc, float64(time.Now().UnixMilli())/1e3)
}

func unix(t time.Time) float64 { return float64(t.Unix()) }

// CA publishes the word for what the CA thinks of this node, as f knows it:
// one of few.
func (m *Metrics) CA(f func() (reason string)) {
	m.GaugeFunc("culvert_ca_condition", "1 for what the CA last said of this node, or why nothing was heard; reason \"signs\" is good.",
		"reason", func() map[string]float64 { return map[string]float64{f(): 1} })
}
