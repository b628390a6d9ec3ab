// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func connection(kind Kind, from, to string) *Event {
	return &Event{Kind: kind, Source: End{Namespace: "shop", Workload: from, Pod: from + "-0"}, Destination: End{Namespace: "bank", Workload: to}}
}

func listen(t *testing.T, s *Stream, query string) *Listener {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFilter(values)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func TestAListenerHearsWhatItAskedFor(t *testing.T) {
	var s Stream
	filters := map[string]string{
		"":                                 "open refused enrolled repaired",
		"event=refused,enrolled":           "refused enrolled",
		"from=shop":                        "open refused",
		"from=shop/web":                    "open",
		"from=shop/web-0&to=bank/db":       "open",
		"to=shop":                          "",
		"namespace=bank":                   "open refused",
		"namespace=shop&event=enrolled":    "enrolled",
		"namespace=sho":                    "",
		"event=refused&from=shop/old&to=b": "",
	}
	for query, want := range filters {
		l := listen(t, &s, query)
		s.Tell(connection(Open, "web", "db"))
		s.Tell(connection(Refused, "old", "db"))
		s.Tell(&Event{Kind: Enrolled, Pod: "shop/web-0"})
		s.Tell(&Event{Kind: Repaired, What: "map"})
		select {
		case l.some <- struct{}{}: // Next returns, though there may be nothing
		default:
		}
		if got := heardNow(t, l); got != want {
			t.Errorf("%q heard %q, want %q", query, got, want)
		}
		l.Close()
	}
}

func heardNow(t *testing.T, l *Listener) string {
	t.Helper()
	events, err := l.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, strings.TrimSpace(string(e.Kind)+" "+strings.TrimPrefix(fmt.Sprint(e.Count), "0")))
	}
	return strings.Join(kinds, " ")
}

func TestAListenerThatDoesNotReadIsToldHowMuchItMissed(t *testing.T) {
	var s Stream
	l := listen(t, &s, "")
	for range queueLength + 5 {
		s.Tell(connection(Close, "web", "db"))
	}
	events, err := l.Next(t.Context())
	if last := events[len(events)-1]; err != nil || len(events) != queueLength+1 || last.Kind != Dropped || last.Count != 5 {
		t.Errorf("%d events, the last is %+v (%v)", len(events), last, err)
	}
	s.Tell(connection(Open, "web", "db"))
	if got := heardNow(t, l); got != "open" {
		t.Errorf("then %q", got)
	}
}

func TestNobodyIsHeardByNobody(t *testing.T) {
	var s Stream
	var none *Stream
	if s.Heard() || none.Heard() {
		t.Error("somebody listens")
	}
	none.Tell(connection(Open, "web", "db"))
	l := listen(t, &s, "")
	if !s.Heard() {
		t.Error("nobody listens")
	}
	l.Close()
	l.Close()
	if s.Heard() {
		t.Error("somebody listens still")
	}
	if n := testing.AllocsPerRun(100, func() { s.Tell(&Event{Kind: Open}) }); n != 0 {
		t.Errorf("%v allocations for nobody", n)
	}
}

// get opens a stream, and returns its answer and its lines.
func get(t *testing.T, address, query string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", address+"/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.(*http.Transport).Clone().RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response, bufio.NewScanner(response.Body)
}

func TestEventsAreServedAsJSONLines(t *testing.T) {
	var s Stream
	server := httptest.NewServer(&s)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	response, lines := get(t, server.URL, "event=refused")
	if response.StatusCode != 200 || !s.Heard() {
		t.Fatalf("status %d, heard %v", response.StatusCode, s.Heard())
	}
	s.Tell(connection(Open, "web", "db"))
	s.Tell(connection(Refused, "web", "db"))
	var e map[string]any
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &e) != nil {
		t.Fatalf("%s, %v", lines.Bytes(), lines.Err())
	}
	if e["event"] != "refused" || e["source"].(map[string]any)["workload"] != "web" || e["time"] == nil || e["bytesSent"] != nil {
		t.Errorf("%v", e)
	}
}

// The admin server bounds a whole exchange, which a stream is not.
func TestAStreamOutlivesTheTimeoutsOfItsServer(t *testing.T) {
	var s Stream
	server := httptest.NewUnstartedServer(&s)
	server.Config.WriteTimeout = 1 // it is over before the handler begins
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	_, lines := get(t, server.URL, "")
	s.Tell(connection(Open, "web", "db"))
	if !lines.Scan() || !strings.Contains(lines.Text(), `"event":"open"`) {
		t.Errorf("%q, %v", lines.Text(), lines.Err())
	}
}

func TestWrongFiltersAndTooManyListenersAreTold(t *testing.T) {
	var s Stream
	server := httptest.NewServer(&s)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	for query, want := range map[string]string{"event=loud": `event "loud": want one or more of open, close`, "pod=x": `"pod" is no filter`} {
		response, lines := get(t, server.URL, query)
		if lines.Scan(); response.StatusCode != 400 || !strings.HasPrefix(lines.Text(), want) {
			t.Errorf("%s: %d %q", query, response.StatusCode, lines.Text())
		}
	}
	for range maxListeners {
		listen(t, &s, "")
	}
	if response, lines := get(t, server.URL, ""); response.StatusCode != 503 || !lines.Scan() || lines.Text() != ErrCrowded.Error() {
		t.Errorf("the ninth: %d %q", response.StatusCode, lines.Text())
	}
}

func BenchmarkTellNobody(b *testing.B) {
	var s Stream
	b.ReportAllocs()
	for b.Loop() {
		if s.Heard() {
			s.Tell(&Event{Kind: Open})
		}
	}
}
