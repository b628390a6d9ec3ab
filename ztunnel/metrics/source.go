// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

func newNotAtSource(r *prometheus.Registry) *prometheus.CounterVec {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_id_not_at_source_total",
		Help: "Connections in tunnels whose peer proved an identity that the registry does not have at its address: refused (mode enforce), or let pass (mode warn); the address is of others (another), or of nobody known (unknown).",
	}, []string{"mode", "address"})
	r.MustRegister(counter)
	return counter
}

// NotAtSource counts a connection whose peer's identity is not at its address. others says that somebody
// else is known to have that address.
func (m *Metrics) NotAtSource(mode string, others bool) {
	address := "unknown"
	if others {
		address = "another"
	}
	m.notAtSource.WithLabelValues(mode, address).Inc()
}
