// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-mesh/culvert/identity/rekey"
)

var (
	rekeyStateDesc = prometheus.NewDesc("culvert_identity_rekey_state",
		"1 for the state that the re-key of the root is in, 0 for all others; stable: none is under way.", []string{"state"}, nil)
	rekeyAgeDesc = prometheus.NewDesc("culvert_identity_rekey_state_seconds",
		"For how long the re-key of the root has been in its state; 0 while none is under way.", nil, nil)
	rekeyWaitsDesc = prometheus.NewDesc("culvert_identity_rekey_waits",
		"How many nodes, replicas or other things the re-key of the root waits for.", []string{"kind"}, nil)
)

// rekeying collects how far a re-key of the root is.
func rekeying(status func() rekey.Status) prometheus.Collector {
	return collectorFunc(func(out chan<- prometheus.Metric) {
		now := status()
		for _, state := range rekey.States {
			is := 0.
			if state == now.State {
				is = 1
			}
			out <- prometheus.MustNewConstMetric(rekeyStateDesc, prometheus.GaugeValue, is, string(state))
		}
		age, waits := 0., map[string]int{}
		for _, kind := range rekey.Kinds {
			waits[kind] = 0
		}
		if now.State != rekey.Stable {
			age = time.Since(now.Since).Seconds()
		}
		out <- prometheus.MustNewConstMetric(rekeyAgeDesc, prometheus.GaugeValue, age)
		for _, w := range now.Waits {
			waits[w.Kind]++
		}
		for kind, n := range waits {
			out <- prometheus.MustNewConstMetric(rekeyWaitsDesc, prometheus.GaugeValue, float64(n), kind)
		}
	})
}
