// SPDX-License-Identifier: Apache-2.0

package server

import "github.com/prometheus/client_golang/prometheus"

// written are counts of what operators wrote and the CA does not go by.
func written(cfg Config) prometheus.Collector {
	wrong := prometheus.NewDesc("culvert_identity_not_understood",
		"What operators wrote and is not understood, so that what was in force before stays: lifetimes of certificates in annotations, the deny set, the file of federations, the certificate of the bundle endpoint.", []string{"what"}, nil)
	return collectorFunc(func(out chan<- prometheus.Metric) {
		out <- prometheus.MustNewConstMetric(wrong, prometheus.GaugeValue, float64(cfg.Accounts.wrong()), "lifetime")
		for what, is := range map[string]bool{
			"deny_set":        cfg.Denied != nil && cfg.Denied.Trouble() != "",
			"federation":      cfg.Federation != nil && cfg.Federation.Trouble() != "",
			"bundle_endpoint": cfg.EndpointTrouble != nil && cfg.EndpointTrouble() != "",
		} {
			out <- prometheus.MustNewConstMetric(wrong, prometheus.GaugeValue, number(is), what)
		}
	})
}

// collectorFunc collects one kind of metrics, which it describes by collecting them.
type collectorFunc func(chan<- prometheus.Metric)

// Describe is part of prometheus.Collector.
func (f collectorFunc) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(f, out) }

// Collect is part of prometheus.Collector.
func (f collectorFunc) Collect(out chan<- prometheus.Metric) { f(out) }
