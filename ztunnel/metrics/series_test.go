// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func nothing() Bytes { return Bytes{} }

// flow is one between a pod of this node and another, by their workloads.
func flow(reporter, source, destination string) *Flow {
	return &Flow{
		Reporter: reporter, MutualTLS: true,
		Source: Peer{Workload: source, Namespace: "shop"}, Destination: Peer{Workload: destination, Namespace: "shop"},
	}
}

// podsOf has there be pods of the workloads in namespace shop, until the returned function
// is called with others.
func podsOf(m *Metrics, names ...string) (set func(names ...string)) {
	var mu sync.Mutex
	pods := map[Workload]bool{}
	set = func(names ...string) {
		mu.Lock()
		defer mu.Unlock()
		pods = map[Workload]bool{}
		for _, name := range names {
			pods[Workload{"shop", name}] = true
		}
	}
	set(names...)
	m.Known(func() map[Workload]bool {
		mu.Lock()
		defer mu.Unlock()
		return pods
	})
	return set
}

// families is which of a workload's families have series, at a scrape.
func families(t *testing.T, m *Metrics, label string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, line := range scrape(t, m, "istio_tcp_") {
		if name, _, _ := strings.Cut(line, "{"); strings.Contains(line, label) {
			found[name]++
		}
	}
	return found
}

func TestSeriesGoTenMinutesAfterTheLastPodAndConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		set := podsOf(m, "web", "db")
		m.Open(flow(Source, "web", "db"), nothing).Close("-")
		m.Open(flow(Source, "web", "db"), nothing).Close("DENY")
		m.Open(flow(Source, "web", "db"), nothing).Close("TLS_FAILURE")
		want := func(n int, when string) {
			t.Helper()
			got := families(t, m, `destination_workload="db"`)
			if n == 0 && len(got) != 0 || n != 0 && (len(got) != 5 || got["istio_tcp_connections_closed_total"] != 3 || got["istio_tcp_connections_failed_total"] != 2) {
				t.Errorf("%s: %v", when, got)
			}
		}
		time.Sleep(24 * time.Hour) // bubble time
		want(1, "idle, while there are pods of both")
		set("web")
		c := m.Open(flow(Source, "web", "db"), nothing)
		time.Sleep(time.Hour)
		want(1, "while a connection is open")
		c.Close("-")
		time.Sleep(keepFlows - time.Second)
		want(1, "not yet ten minutes later")
		time.Sleep(sweepEvery)
		want(0, "ten minutes after the last pod and connection")
		if len(m.traffic.series) != 0 || len(m.traffic.locals) != 0 {
			t.Errorf("kept %v, %v", m.traffic.series, m.traffic.locals)
		}

		m.Open(flow(Source, "web", "db"), nothing).Close("-")
		if got := value(t, m, "istio_tcp_connections_opened_total"); got != "1" {
			t.Errorf("who comes again begins at %s, want 1", got)
		}
	})
}

// Whoever returns within ten minutes goes on counting.
// A peer may have connections fail by the thousand, and each is counted.
func TestAFailureThatIsKnownCostsNoMoreThanAGoodEnd(t *testing.T) {
	m := New(Config{})
	of := func(flags string) float64 {
		return testing.AllocsPerRun(100, func() { m.Open(&shopFlow, nothing).Close(flags) })
	}
	if good, failed := of("-"), of("UF"); failed > good {
		t.Errorf("%v allocations, and %v for a good end", failed, good)
	}
}

func TestSeriesOfAPodThatReturnsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		set := podsOf(m, "web", "db")
		for range 10 {
			m.Open(flow(Destination, "web", "db"), nothing).Close("-")
			set("db")
			time.Sleep(keepFlows - sweepEvery) // bubble time
			scrape(t, m, "istio_")
			set("web", "db")
			time.Sleep(keepFlows)
			scrape(t, m, "istio_")
		}
		if got := value(t, m, "istio_tcp_connections_opened_total"); got != "10" {
			t.Errorf("opened = %s, want 10", got)
		}
	})
}

// Of what is outside the mesh nobody knows when it is gone: the pod decides.
func TestSeriesToTheOutsideStayWhileThePodDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		set := podsOf(m, "web")
		m.Open(&Flow{Reporter: Source, Source: Peer{Workload: "web", Namespace: "shop"}}, nothing).Close("-")
		m.Open(&Flow{Reporter: Destination, Source: Peer{Principal: "spiffe://td/ns/a/sa/stranger"}, Destination: Peer{Workload: "web", Namespace: "shop"}}, nothing).Close("-")
		time.Sleep(24 * time.Hour) // bubble time
		scrape(t, m, "istio_")
		time.Sleep(24 * time.Hour)
		if got := families(t, m, `destination_workload="unknown"`); len(got) == 0 {
			t.Error("to the outside: dropped while the pod is there")
		}
		if got := families(t, m, `stranger`); len(got) != 0 {
			t.Errorf("of a stranger who may never return: %v", got)
		}
		set()
		time.Sleep(keepFlows + sweepEvery)
		scrape(t, m, "istio_")
		time.Sleep(keepFlows)
		if got := families(t, m, "workload"); len(got) != 0 {
			t.Errorf("the pod is gone: %v", got)
		}
	})
}

func TestOnePodCannotTakeTheSeriesOfOthers(t *testing.T) {
	m := New(Config{})
	for n := range 3 * maxOfLocal {
		m.Open(flow(Source, "loud", fmt.Sprintf("peer-%d", n)), nothing).Close("-")
	}
	if n := m.traffic.locals[Peer{Workload: "loud", Namespace: "shop"}]; n != maxOfLocal+1 {
		t.Errorf("%d series of one pod, want its share and one for the rest", n)
	}
	if got := value(t, m, "istio_tcp_connections_opened_total", `source_workload="loud"`, `destination_workload="other"`); got != fmt.Sprint(2*maxOfLocal) {
		t.Errorf("the rest = %s, want %d", got, 2*maxOfLocal)
	}
	if got := value(t, m, "culvert_series_overflow_total"); got != fmt.Sprint(2*maxOfLocal) {
		t.Errorf("overflow = %s, want %d", got, 2*maxOfLocal)
	}
	m.Open(flow(Source, "web", "db"), nothing).Close("-")
	if got := value(t, m, "istio_tcp_connections_opened_total", `source_workload="web"`, `destination_workload="db"`); got != "1" {
		t.Errorf("of another pod = %q, want 1", got)
	}
}

// The pods of a workload may be in many zones. Who talks to many workloads is told these
// apart first.
func TestZonesTakeNoRoomThatWorkloadsNeed(t *testing.T) {
	m := New(Config{})
	for n := range maxLocated {
		for zone := range 3 {
			f := flow(Source, "loud", fmt.Sprintf("peer-%d", n))
			f.Source.Zone, f.Destination.Zone, f.Destination.Region = "z0", fmt.Sprintf("z%d", zone), fmt.Sprintf("r%d", zone)
			m.Open(f, nothing).Close("-")
		}
	}
	if got := value(t, m, "culvert_series_overflow_total"); got != "0" {
		t.Errorf("overflow = %s, want none", got)
	}
	near, far := `destination_workload="peer-0"`, fmt.Sprintf(`destination_workload="peer-%d"`, maxLocated-1)
	if got := value(t, m, "istio_tcp_connections_opened_total", near, `source_zone="z0"`, `destination_zone="z2"`); got != "1" {
		t.Errorf("of the first = %q, want 1 in its zone", got)
	}
	if got := value(t, m, "istio_tcp_connections_opened_total", far, `source_zone="z0"`, `destination_region="other"`, `destination_zone="other"`); got != "3" {
		t.Errorf("of the last = %q, want 3 in zones that are not told apart", got)
	}
}

// What all pods of the node may have is shared, too.
func TestZonesTakeHalfOfTheRoomOfANode(t *testing.T) {
	m := New(Config{})
	m.traffic.mu.Lock()
	defer m.traffic.mu.Unlock()
	zoneOf := func(source string) string {
		f := flow(Source, source, "db")
		f.Destination.Zone = "z1"
		return m.traffic.of(f).flow.Destination.Zone
	}
	for n := range maxFlows / 2 {
		if zone := zoneOf(fmt.Sprintf("pod-%d", n)); zone != "z1" {
			t.Fatalf("with %d series there is no room for zone %s", n, zone)
		}
	}
	if zone := zoneOf("one-more"); zone != other {
		t.Errorf("with %d series zone %s is told apart", maxFlows/2, zone)
	}
}

func TestWhereNobodySaysWhereItIsThereAreNoLabelsOfPlaces(t *testing.T) {
	m := New(Config{})
	m.Open(flow(Source, "web", "db"), nothing).Close("-")
	if got := value(t, m, "istio_tcp_connections_opened_total", `source_region=""`, `destination_zone=""`); got != "1" {
		t.Errorf("%q, want 1 without a place", got)
	}
}

func TestSeriesAreBoundedWhoeverComes(t *testing.T) {
	m := New(Config{})
	for n := range maxFlows + 1000 {
		for _, reporter := range []string{Source, Destination} {
			f := flow(reporter, fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n))
			f.MutualTLS = n%2 == 0
			m.Open(f, nothing).Close("DENY")
		}
	}
	if n := len(m.traffic.series); n > maxFlows+4 {
		t.Errorf("%d series", n)
	}
	// Nothing is lost: it counts under other labels.
	total := 0
	for _, line := range scrape(t, m, "istio_tcp_connections_failed_total") {
		var n float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &n); err != nil {
			t.Fatal(err)
		}
		total += int(n)
	}
	if want := 2 * (maxFlows + 1000); total != want {
		t.Errorf("%d failed connections, want %d", total, want)
	}
}

func TestScrapesMayOverlapWithSweeps(t *testing.T) {
	m := New(Config{})
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := range 200 {
				c := m.Open(flow(Source, "web", fmt.Sprintf("db-%d-%d", n, i)), nothing)
				m.traffic.mu.Lock()
				m.traffic.swept = time.Time{}
				for _, s := range m.traffic.series {
					s.needed = time.Time{}
				}
				m.traffic.mu.Unlock()
				m.traffic.sweep()
				c.Close("-")
			}
		})
	}
	wg.Wait()
	if n := len(m.traffic.series); n > 4 {
		t.Errorf("%d series are left", n)
	}
}

// BenchmarkScrapeOfAllSeries is what a scrape costs at the bound.
func BenchmarkScrapeOfAllSeries(b *testing.B) {
	m := New(Config{})
	for n := range maxFlows {
		m.Open(flow(Source, fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n)), nothing).Close("-")
	}
	for b.Loop() {
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		b.SetBytes(int64(w.Body.Len()))
	}
}
