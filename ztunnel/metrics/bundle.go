// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Bundle is which roots vouch for peers of this node.
type Bundle struct {
	Generation uint64  // that the CA's stream said last; 0: none yet
	Roots      int     // those that only answers have named included
	Connected  bool    // the stream is open: a change is heard of at once
	Age        float64 // seconds for which no stream was open; 0: one is
}

// DenySet is whom the CA denies, as far as this node knows.
type DenySet struct {
	Generation uint64  // of the latest set that a stream of the CA said; 0: none yet
	Entries    int     // in force
	Connected  bool    // a stream is open: a denial is heard of at once
	Age        float64 // seconds for which no stream was open; 0: one is
}

// Bundle publishes the trust bundle, by f, which is asked at each scrape.
func (m *Metrics) Bundle(f func() Bundle) {
	m.gauge("culvert_trust_bundle_generation", "Generation of the trust bundle that the CA's stream said last; 0: none yet.",
		func() float64 { return float64(f().Generation) })
	m.gauge("culvert_trust_bundle_roots", "Roots that vouch for peers.", func() float64 { return float64(f().Roots) })
	m.gauge("culvert_trust_bundle_connected", "1 while the CA's stream of the trust bundle is open.", func() float64 { return one(f().Connected) })
	m.gauge("culvert_trust_bundle_age_seconds", "For how long no stream of the trust bundle has been open; 0 while one is.",
		func() float64 { return f().Age })
}

// DenySet publishes the deny set, by f, which is asked at each scrape.
func (m *Metrics) DenySet(f func() DenySet) {
	m.gauge("culvert_deny_set_generation", "Generation of the deny set that the CA's stream said last; 0: none yet.",
		func() float64 { return float64(f().Generation) })
	m.gauge("culvert_deny_set_entries", "Entries of the deny set in force.", func() float64 { return float64(f().Entries) })
	m.gauge("culvert_deny_set_connected", "1 while a stream of the CA's deny set is open.", func() float64 { return one(f().Connected) })
	m.gauge("culvert_deny_set_age_seconds", "For how long no stream of the deny set has been open; 0 while one is.",
		func() float64 { return f().Age })
}

func (m *Metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// one is 1 for what is so.
func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
