// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Certificates is how it stands with the node's certificates.
type Certificates struct {
	Held           map[string]int       // identities by the state of their certificate
	Expiry         map[string]time.Time // of each certificate that came, by identity
	Issued, Failed uint64               // requests to the CA
	InFlight       int                  // of them, now
}

// Certificates publishes the state of the node's certificates, by f, which is
// asked at each scrape.
func (m *Metrics) Certificates(f func() Certificates) {
	m.GaugeFunc("culvert_certificates", "Identities of this node's pods by the state of their certificate.", "state",
		func() map[string]float64 {
			held := make(map[string]float64)
			for state, n := range f().Held {
				held[state] = float64(n)
			}
			return held
		})
	m.GaugeFunc("culvert_certificate_expiry_timestamp_seconds",
		"When the certificate of an identity expires or expired.", "identity", func() map[string]float64 {
			expiry := make(map[string]float64)
			for id, at := range f().Expiry {
				expiry[id] = float64(at.Unix())
			}
			return expiry
		})
	m.CounterFunc("culvert_certificate_requests_total", "Requests to the CA for a certificate, by how they ended.", "result",
		func() map[string]uint64 {
			c := f()
			return map[string]uint64{"issued": c.Issued, "failed": c.Failed}
		})
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "culvert_certificate_requests_open", Help: "Requests to the CA for a certificate under way.",
	}, func() float64 { return float64(f().InFlight) }))
}

// CA publishes the word for what the CA thinks of this node, as f knows it:
// one of few.
func (m *Metrics) CA(f func() (reason string)) {
	m.GaugeFunc("culvert_ca_condition", "1 for what the CA last said of this node, or why nothing was heard; reason \"signs\" is good.",
		"reason", func() map[string]float64 { return map[string]float64{f(): 1} })
}
