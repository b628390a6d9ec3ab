// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Which end of a connection tells of it: the values of the label reporter.
const (
	Source      = "source"
	Destination = "destination"
)

// noFlags is the response_flags of a connection that nothing went wrong with.
const noFlags = "-"

// trafficLabels are Istio's standard TCP labels, in its order.
var trafficLabels = []string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_cluster",
	"request_protocol", "response_flags", "connection_security_policy",
	"source_region", "source_zone", "destination_region", "destination_zone",
}

// Peer names one end of a connection. What is not known stays empty.
type Peer struct {
	Workload  string
	Canonical string // canonical service
	Revision  string // canonical revision
	Namespace string
	Principal string // SPIFFE ID, only from a verified certificate or the accepting netns
	App       string
	Version   string
	Cluster   string
	Region    string // of its node
	Zone      string // likewise
}

// Service names the service that was asked for. What is not known stays empty.
type Service struct {
	Host, Namespace, Name string
}

// Flow is what the connections of one time series have in common. It is
// comparable, and is itself the key under which its children are kept.
type Flow struct {
	Reporter    string // Source or Destination
	Source      Peer
	Destination Peer
	Service     Service
	MutualTLS   bool
}

// labels are the values of trafficLabels.
func (f *Flow) labels(flags string) []string {
	policy := ""
	if f.MutualTLS {
		policy = "mutual_tls"
	}
	src, dst, svc := f.Source, f.Destination, f.Service
	values := []string{
		f.Reporter,
		src.Workload, src.Canonical, src.Revision, src.Namespace, src.Principal, src.App, src.Version, src.Cluster,
		svc.Host, svc.Namespace, svc.Name,
		dst.Workload, dst.Canonical, dst.Revision, dst.Namespace, dst.Principal, dst.App, dst.Version, dst.Cluster,
		"tcp", flags, policy,
	}
	for i := range values {
		values[i] = known(values[i])
	}
	return append(values, f.localities()...)
}

// localities are the values of the last four labels, empty if neither end says where it is:
// to Prometheus an empty label is none.
func (f *Flow) localities() []string {
	where := []string{f.Source.Region, f.Source.Zone, f.Destination.Region, f.Destination.Zone}
	if strings.Join(where, "") == "" {
		return where
	}
	for i := range where {
		where[i] = known(where[i])
	}
	return where
}

// Bytes are the payload bytes of one connection so far. Received went from
// client to server and Sent from server to client, whoever reports.
type Bytes struct {
	Received, Sent uint64
}

// traffic holds the families of connections and bytes.
type traffic struct {
	opened, closed, failed *prometheus.CounterVec
	received, sent         *prometheus.CounterVec
	sockets                *prometheus.GaugeVec
	source, destination    sockets
	plaintext, refused     *prometheus.CounterVec
	overflow               prometheus.Counter
	pods                   func() map[Workload]bool // set before the first scrape

	mu     sync.Mutex // guards what follows
	series map[Flow]*series
	locals map[Peer]int // how many series a pod of this node is the local end of
	open   map[*Connection]struct{}
	swept  time.Time
}

// sockets are a reporter's app-facing ones.
type sockets struct {
	open   prometheus.Gauge
	closed func()
}

func (s *sockets) of(g prometheus.Gauge) { s.open, s.closed = g, g.Dec }

func (t *traffic) init(r *prometheus.Registry) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	t.opened = vec("istio_tcp_connections_opened_total", "TCP connections opened.", trafficLabels...)
	t.closed = vec("istio_tcp_connections_closed_total", "TCP connections closed.", trafficLabels...)
	t.received = vec("istio_tcp_received_bytes_total", "Bytes from client to server.", trafficLabels...)
	t.sent = vec("istio_tcp_sent_bytes_total", "Bytes from server to client.", trafficLabels...)
	t.failed = vec("istio_tcp_connections_failed_total", "TCP connections that ended by a failure.", trafficLabels...)
	t.plaintext = vec("culvert_plaintext_connections_total",
		"Connections carried without mutual TLS, because policy allows it, by why.", "direction", "reason")
	t.refused = vec("culvert_connections_refused_total",
		"Connections refused or ended by us, by the word of the access record.", "direction", "result")
	t.sockets = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "istio_tcp_sockets_open", Help: "App-facing sockets open now.",
	}, []string{"reporter"})
	r.MustRegister(t.sockets)
	t.source.of(t.sockets.WithLabelValues(Source))
	t.destination.of(t.sockets.WithLabelValues(Destination))
	t.overflow = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_series_overflow_total",
		Help: "Connections that count under the labels \"other\", as there are too many series for labels of their own.",
	})
	r.MustRegister(t.overflow)
	t.pods = func() map[Workload]bool { return nil }
	t.series = make(map[Flow]*series)
	t.locals = make(map[Peer]int)
	t.open = make(map[*Connection]struct{})
}

// settle adds what the open connections carried since they were last asked.
func (t *traffic) settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		c.settle()
	}
}

// Connection counts one connection from Open to Close.
type Connection struct {
	traffic *traffic
	series  *series
	totals  func() Bytes
	counted Bytes // guarded by traffic.mu
}

// Open counts a connection of flow as opened. totals tells its bytes so far,
// never fewer than before; it is called at scrapes, with a lock held, until
// Close returns.
func (m *Metrics) Open(flow *Flow, totals func() Bytes) *Connection {
	t := &m.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Connection{traffic: t, series: t.of(flow), totals: totals}
	t.open[c] = struct{}{}
	c.series.open++
	c.series.opened.Inc()
	return c
}

// Close counts the connection as closed with flags ("-" for a good end), and
// as failed if flags tell of a failure. It must be called exactly once.
func (c *Connection) Close(flags string) {
	t := c.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	c.settle()
	delete(t.open, c)
	c.series.open--
	c.series.needed = time.Now()
	if flags == noFlags {
		c.series.closed.Inc()
		return
	}
	f := t.failure(c.series, flags)
	f.closed.Inc()
	f.failed.Inc()
}

// settle counts what is new. traffic.mu is held.
func (c *Connection) settle() {
	now := c.totals()
	if now.Received > c.counted.Received {
		c.series.received.Add(float64(now.Received - c.counted.Received))
		c.counted.Received = now.Received
	}
	if now.Sent > c.counted.Sent {
		c.series.sent.Add(float64(now.Sent - c.counted.Sent))
		c.counted.Sent = now.Sent
	}
}

// Socket counts one app-facing socket of reporter as open, until the returned
// function is called.
func (m *Metrics) Socket(reporter string) (closed func()) {
	s := &m.traffic.source
	if reporter == Destination {
		s = &m.traffic.destination
	}
	s.open.Inc()
	return s.closed
}

// Plaintext counts a connection that is carried without mutual TLS.
// Direction is inbound or outbound; reason is why that was allowed.
func (m *Metrics) Plaintext(direction, reason string) {
	m.traffic.plaintext.WithLabelValues(direction, reason).Inc()
}

// Refused counts a connection whose access record says result, a word for
// anything but a good end.
func (m *Metrics) Refused(direction, result string) {
	m.traffic.refused.WithLabelValues(direction, result).Inc()
}
