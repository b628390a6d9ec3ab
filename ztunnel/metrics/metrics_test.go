// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"flag"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// scrape returns the lines of a scrape that begin with prefix.
func scrape(t *testing.T, m *Metrics, prefix string) []string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: status %d: %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// value returns the value of the one line that begins with name and has all of labels.
func value(t *testing.T, m *Metrics, name string, labels ...string) string {
	t.Helper()
	found := ""
	for _, line := range scrape(t, m, name) {
		series, v, _ := strings.Cut(line, "} ")
		if series == line { // no labels
			_, v, _ = strings.Cut(line, " ")
		}
		all := true
		for _, l := range labels {
			all = all && strings.Contains(series+"}", l)
		}
		if !all {
			continue
		}
		if found != "" {
			t.Fatalf("%s%v: more than one series", name, labels)
		}
		found = v
	}
	return found
}

var shopFlow = Flow{
	Reporter:    Source,
	Source:      Peer{Workload: "web", Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/web", Cluster: "Kubernetes", Region: "atlantis", Zone: "east"},
	Destination: Peer{Workload: "db", Canonical: "db", Revision: "v2", Namespace: "shop", App: "db", Version: "v2"},
	Service:     Service{Host: "db.shop.svc.cluster.local", Namespace: "shop", Name: "db"},
	MutualTLS:   true,
}

func TestTrafficHasTheNamesAndLabelsOfIstio(t *testing.T) {
	m := New(Config{Version: "v1"})
	ok := m.Open(&shopFlow, func() Bytes { return Bytes{Received: 5, Sent: 7} })
	ok.Close("-")
	bad := m.Open(&shopFlow, func() Bytes { return Bytes{} })
	bad.Close("DENY")
	m.Socket(Destination)
	m.Plaintext("inbound", "permissive")
	m.Refused("inbound", "denied")

	// The exposition format sorts labels, so their order is asserted apart.
	got := strings.Join(append(scrape(t, m, "istio_"), scrape(t, m, "culvert_")...), "\n") + "\n"
	const golden = "testdata/traffic.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestLabelValuesStandInTheOrderOfTheLabels(t *testing.T) {
	f := Flow{
		Reporter:    "1",
		Source:      Peer{"2", "3", "4", "5", "6", "7", "8", "9", "24", "25"},
		Service:     Service{"10", "11", "12"},
		Destination: Peer{"13", "14", "15", "16", "17", "18", "19", "20", "26", "27"},
		MutualTLS:   true,
	}
	want := "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 tcp 22 mutual_tls 24 25 26 27"
	if got := strings.Join(f.labels("22"), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(f.labels("")) != len(trafficLabels) {
		t.Errorf("%d values for %d labels", len(f.labels("")), len(trafficLabels))
	}
}

func TestByteCountersMoveWhileAConnectionIsOpen(t *testing.T) {
	m := New(Config{})
	var mu sync.Mutex
	var now Bytes
	c := m.Open(&shopFlow, func() Bytes { mu.Lock(); defer mu.Unlock(); return now })
	add := func(received, sent uint64) { mu.Lock(); defer mu.Unlock(); now.Received += received; now.Sent += sent }
	expect := func(received, sent string) {
		t.Helper()
		r, s := value(t, m, "istio_tcp_received_bytes_total"), value(t, m, "istio_tcp_sent_bytes_total")
		if r != received || s != sent {
			t.Errorf("received %s, sent %s; want %s, %s", r, s, received, sent)
		}
	}
	expect("0", "0")
	add(10, 1)
	expect("10", "1")
	expect("10", "1")
	add(5, 0)
	c.Close("-")
	expect("15", "1")
	add(100, 100) // closed: nobody asks any more
	expect("15", "1")
}

func TestAFailedConnectionCountsAsFailedAndClosed(t *testing.T) {
	m := New(Config{})
	m.Open(&shopFlow, func() Bytes { return Bytes{} }).Close("TLS_FAILURE")
	for name, want := range map[string]string{
		`istio_tcp_connections_opened_total`: "1",
		`istio_tcp_connections_failed_total`: "1",
	} {
		if got := value(t, m, name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if got := value(t, m, "istio_tcp_connections_closed_total", `response_flags="TLS_FAILURE"`); got != "1" {
		t.Errorf("closed with the flag = %s, want 1", got)
	}
}

func TestConnectionsOfOneFlowShareOneSeries(t *testing.T) {
	m := New(Config{})
	a := m.Open(&shopFlow, func() Bytes { return Bytes{Sent: 1} })
	b := m.Open(&shopFlow, func() Bytes { return Bytes{Sent: 2} })
	if a.series != b.series {
		t.Error("two connections of one flow resolved their label children twice")
	}
	if got := value(t, m, "istio_tcp_sent_bytes_total"); got != "3" {
		t.Errorf("sent = %s, want 3", got)
	}
	a.Close("-")
	b.Close("-")
	if len(m.traffic.open) != 0 {
		t.Errorf("%d connections are still asked after they closed", len(m.traffic.open))
	}
}

func TestScrapesMayOverlapWithTraffic(t *testing.T) {
	m := New(Config{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				m.Open(&shopFlow, func() Bytes { return Bytes{Sent: 1} }).Close("-")
			}
		})
		wg.Go(func() {
			for range 5 {
				m.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
			}
		})
	}
	wg.Wait()
	if got := value(t, m, "istio_tcp_sent_bytes_total"); got != "200" {
		t.Errorf("sent = %s, want 200", got)
	}
}

func TestTheNodesOwnStateIsReadAtEachScrape(t *testing.T) {
	m := New(Config{})
	steered := uint64(1)
	m.BPF(func() map[string]uint64 { return map[string]uint64{"steered": steered, "refused_map_full": 2} })
	m.Certificates(func() Certificates {
		return Certificates{
			Held: map[string]int{"valid": 4, "expired": 1},
			Lives: map[string]Life{
				"spiffe://td/ns/a/sa/b": {Until: time.Unix(1700000000, 0), Lifetime: time.Hour, Next: time.Unix(1600000000, 0), Overdue: true},
				"spiffe://td/ns/a/sa/c": {Next: time.Unix(1500000000, 0)}, // none came yet
			},
			Issued: 6, Failed: map[string]uint64{"unreachable": 1, "token_expired": 1}, InFlight: 1,
		}
	})
	m.CA(func() string { return "token_expired" })
	m.Bundle(func() Bundle { return Bundle{Generation: 7, Roots: 2, Connected: true} })
	m.Pods(func() Enrollment { return Enrollment{Intended: 3, Enrolled: 2, Verified: 1, Certified: 0} })
	m.Tunnels(func() Tunnels {
		return Tunnels{
			Outbound: TunnelCounts{Tunnels: 1, Streams: 2, StreamsEver: 3, Handshakes: 4, Failed: 5, Retries: 6},
			Inbound:  TunnelCounts{Tunnels: 7, Streams: 8, StreamsEver: 9, Handshakes: 10, Failed: 11, Shed: 12},
		}
	})
	m.Budget(func() (size, used map[string]float64) {
		return map[string]float64{"descriptors": 1000}, map[string]float64{"descriptors": 20}
	})
	m.Repaired("connect4")
	m.SourceError()
	m.ForeignProbe()
	m.SourceApplied(7)
	m.PodStarted()
	m.PodStopped()
	steered = 5

	for _, row := range []struct{ name, label, want string }{
		{"culvert_bpf_events_total", `reason="steered"`, "5"},
		{"culvert_bpf_events_total", `reason="refused_map_full"`, "2"},
		{"culvert_certificate_expiry_timestamp_seconds", `identity="spiffe://td/ns/a/sa/b"`, "1.7e+09"},
		{"culvert_certificate_lifetime_seconds", `identity="spiffe://td/ns/a/sa/b"`, "3600"},
		{"culvert_certificate_expiry_timestamp_seconds", `identity="spiffe://td/ns/a/sa/c"`, ""},
		{"culvert_certificate_next_request_timestamp_seconds", `identity="spiffe://td/ns/a/sa/b"`, "1.6e+09"},
		{"culvert_certificate_next_request_timestamp_seconds", `identity="spiffe://td/ns/a/sa/c"`, "1.5e+09"},
		{"culvert_certificate_renewal_overdue", "", "1"},
		{"culvert_certificate_failures_total", `reason="unreachable"`, "1"},
		{"culvert_certificate_failures_total", `reason="token_expired"`, "1"},
		{"culvert_certificates", `state="valid"`, "4"},
		{"culvert_certificates", `state="expired"`, "1"},
		{"culvert_certificate_requests_total", `result="issued"`, "6"},
		{"culvert_certificate_requests_total", `result="failed"`, "2"},
		{"culvert_certificate_requests_open", "", "1"},
		{"culvert_ca_condition", `reason="token_expired"`, "1"},
		{"culvert_trust_bundle_generation", "", "7"},
		{"culvert_trust_bundle_roots", "", "2"},
		{"culvert_trust_bundle_connected", "", "1"},
		{"culvert_tunnels_open", `direction="outbound"`, "1"},
		{"culvert_tunnel_streams_open", `direction="inbound"`, "8"},
		{"culvert_tunnel_streams_total", `direction="outbound"`, "3"},
		{"culvert_tunnel_handshakes_total", `direction="inbound"`, "10"},
		{"culvert_tunnel_handshakes_failed_total", `direction="outbound"`, "5"},
		{"culvert_tunnel_stream_retries_total", `direction="outbound"`, "6"},
		{"culvert_tunnel_connections_shed_total", `direction="inbound"`, "12"},
		{"culvert_enrolled_pods", `state="certified"`, "0"},
		{"culvert_enrolled_pods", `state="intended"`, "3"},
		{"culvert_enrolled_pods", `state="enrolled"`, "2"},
		{"culvert_enrolled_pods", `state="verified"`, "1"},
		{"workload_manager_active_proxy_count", "", "2"},
		{"workload_manager_pending_proxy_count", "", "1"},
		{"workload_manager_proxies_started_total", "", "1"},
		{"workload_manager_proxies_stopped_total", "", "1"},
		{"culvert_repairs_total", `what="connect4"`, "1"},
		{"culvert_budget_size", `resource="descriptors"`, "1000"},
		{"culvert_budget_used", `resource="descriptors"`, "20"},
		{"culvert_foreign_probes_total", "", "1"},
		{"culvert_source_errors_total", "", "1"},
		{"culvert_source_generation", "", "7"},
	} {
		if got := value(t, m, row.name, row.label); got != row.want {
			t.Errorf("%s{%s} = %q, want %q", row.name, row.label, got, row.want)
		}
	}
	for _, name := range []string{"process_open_fds", "process_max_fds", "go_goroutines"} {
		if value(t, m, name+" ") == "" {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestOpenMetricsAndCompressionOnDemand(t *testing.T) {
	m := New(Config{})
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Errorf("content type %q", got)
	}
	if got := w.Header().Get("Content-Encoding"); got != "gzip" {
		t.Errorf("content encoding %q", got)
	}
}

func BenchmarkOpenClose(b *testing.B) {
	m := New(Config{})
	totals := func() Bytes { return Bytes{} }
	b.ReportAllocs()
	for b.Loop() {
		m.Open(&shopFlow, totals).Close("-")
	}
}

// kialis are labels by which Kiali's graph groups TCP traffic (graph/telemetry/istio of
// v2.31, and its appenders for security and throughput). It leaves out a series that lacks
// one, and to Prometheus an empty label is none.
const kialis = "source_cluster source_workload_namespace source_workload source_canonical_service source_canonical_revision source_principal " +
	"destination_cluster destination_service_namespace destination_service destination_service_name destination_workload_namespace " +
	"destination_workload destination_canonical_service destination_canonical_revision destination_principal " +
	"response_flags connection_security_policy request_protocol reporter"

func TestKialiFindsEachLabelThatItGroupsBy(t *testing.T) {
	values := map[string]string{}
	for i, value := range (&Flow{Reporter: Source}).labels(noFlags) { // nothing else is known
		values[trafficLabels[i]] = value
	}
	for label := range strings.FieldsSeq(kialis) {
		if values[label] == "" {
			t.Errorf("%s is missing or empty", label)
		}
	}
}
