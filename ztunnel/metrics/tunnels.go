// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// TunnelCounts is what the tunnels of one direction carry and carried.
type TunnelCounts struct {
	Tunnels, Streams int // open now

	StreamsEver uint64
	Handshakes  uint64 // begun
	Failed      uint64 // of them
	Retries     uint64 // of streams, by another tunnel
	Shed        uint64 // connections turned away for want of room
}

// Add adds what others carry.
func (c *TunnelCounts) Add(o TunnelCounts) {
	c.Tunnels += o.Tunnels
	c.Streams += o.Streams
	c.StreamsEver += o.StreamsEver
	c.Handshakes += o.Handshakes
	c.Failed += o.Failed
	c.Retries += o.Retries
	c.Shed += o.Shed
}

// Tunnels is what the tunnels of all pods carry: those that pods of this node
// opened, and those that were opened to them.
type Tunnels struct{ Outbound, Inbound TunnelCounts }

// tunnelFamilies are read by one question for each scrape: every pod is asked.
var tunnelFamilies = []struct {
	name, help string
	kind       prometheus.ValueType
	of         func(TunnelCounts) float64
}{
	{"culvert_tunnels_open", "Tunnels open now.", prometheus.GaugeValue,
		func(c TunnelCounts) float64 { return float64(c.Tunnels) }},
	{"culvert_tunnel_streams_open", "Streams open now in tunnels.", prometheus.GaugeValue,
		func(c TunnelCounts) float64 { return float64(c.Streams) }},
	{"culvert_tunnel_streams_total", "Streams opened in tunnels.", prometheus.CounterValue,
		func(c TunnelCounts) float64 { return float64(c.StreamsEver) }},
	{"culvert_tunnel_handshakes_total", "Tunnels begun.", prometheus.CounterValue,
		func(c TunnelCounts) float64 { return float64(c.Handshakes) }},
	{"culvert_tunnel_handshakes_failed_total", "Tunnels begun that did not come to be.", prometheus.CounterValue,
		func(c TunnelCounts) float64 { return float64(c.Failed) }},
	{"culvert_tunnel_stream_retries_total", "Streams that one tunnel did not take and another was asked for.", prometheus.CounterValue,
		func(c TunnelCounts) float64 { return float64(c.Retries) }},
	{"culvert_tunnel_connections_shed_total", "Connections turned away before a handshake, for want of room.", prometheus.CounterValue,
		func(c TunnelCounts) float64 { return float64(c.Shed) }},
}

// Tunnels publishes what f counts, which is asked at each scrape.
func (m *Metrics) Tunnels(f func() Tunnels) {
	t := &tunnels{read: f}
	for _, family := range tunnelFamilies {
		t.descs = append(t.descs, prometheus.NewDesc(family.name, family.help, []string{"direction"}, nil))
	}
	m.registry.MustRegister(t)
}

type tunnels struct {
	descs []*prometheus.Desc
	read  func() Tunnels
}

func (t *tunnels) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range t.descs {
		ch <- desc
	}
}

func (t *tunnels) Collect(ch chan<- prometheus.Metric) {
	now := t.read()
	for i, family := range tunnelFamilies {
		ch <- prometheus.MustNewConstMetric(t.descs[i], family.kind, family.of(now.Outbound), "outbound")
		ch <- prometheus.MustNewConstMetric(t.descs[i], family.kind, family.of(now.Inbound), "inbound")
	}
}
