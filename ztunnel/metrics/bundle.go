// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Bundle is which roots vouch for peers of this node.
type Bundle struct {
	Generation uint64 // that the CA's stream said last; 0: none yet
	Roots      int    // those that only answers have named included
	Connected  bool   // the stream is open: a change is heard of at once
}

// Bundle publishes the trust bundle, by f, which is asked at each scrape.
func (m *Metrics) Bundle(f func() Bundle) {
	gauge := func(name, help string, value func(Bundle) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(f()) }))
	}
	gauge("culvert_trust_bundle_generation", "Generation of the trust bundle that the CA's stream said last; 0: none yet.",
		func(b Bundle) float64 { return float64(b.Generation) })
	gauge("culvert_trust_bundle_roots", "Roots that vouch for peers.", func(b Bundle) float64 { return float64(b.Roots) })
	gauge("culvert_trust_bundle_connected", "1 while the CA's stream of the trust bundle is open.", func(b Bundle) float64 {
		if b.Connected {
			return 1
		}
		return 0
	})
}
