// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const token = Token("sesame")

// serve has a server with one edge, and a client that follows no redirects.
func serve(t *testing.T, s *Server) (*httptest.Server, *http.Client) {
	t.Helper()
	if s.History == nil {
		s.History = &History{}
		s.History.Add([]fleet.Node{node("one", toDB(1, 0, 0, 0, noon))}, noon)
	}
	if s.Gate == nil {
		s.Gate = token
	}
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return server, client
}

func ask(t *testing.T, client *http.Client, method, address string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func bearer(value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+value) }
}

func TestTheTokenOfTheAddressBecomesACookie(t *testing.T) {
	server, client := serve(t, &Server{})
	answer, _ := ask(t, client, "GET", server.URL+"/?token=sesame&ns=shop", nil)
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/?ns=shop" || len(answer.Cookies()) != 1 {
		t.Fatalf("%s to %q with %v", answer.Status, answer.Header.Get("Location"), answer.Cookies())
	}
	cookie := answer.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode {
		t.Errorf("cookie %v", cookie)
	}
	answer, text := ask(t, client, "GET", server.URL+"/", func(r *http.Request) { r.AddCookie(cookie) })
	if answer.StatusCode != 200 || !strings.Contains(text, `src="/map.js"`) {
		t.Errorf("%s: %s", answer.Status, text)
	}
	answer, text = ask(t, client, "GET", server.URL+"/api/graph", func(r *http.Request) { r.AddCookie(cookie) })
	var g Graph
	if err := json.Unmarshal([]byte(text), &g); err != nil || answer.StatusCode != 200 || len(g.Edges) != 1 {
		t.Errorf("%s, %v: %s", answer.Status, err, text)
	}
}

func TestStrangersGetNothing(t *testing.T) {
	server, client := serve(t, &Server{})
	for _, path := range []string{"/", "/?token=guess", "/api/graph", "/api/live", "/api/edge?id=x", "/api/words"} {
		for _, change := range []func(*http.Request){nil, bearer("guess"), bearer("")} {
			answer, text := ask(t, client, "GET", server.URL+path, change)
			if answer.StatusCode != http.StatusUnauthorized || strings.Contains(text, "shop") || len(answer.Cookies()) != 0 {
				t.Errorf("%s: %s: %s", path, answer.Status, text)
			}
		}
	}
	if answer, _ := ask(t, client, "POST", server.URL+"/login", nil); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("login without a token: %s", answer.Status)
	}
}

// A page of another name that leads here must not read the answers, nor sign anybody in.
func TestOtherHostsAndOriginsAreRefused(t *testing.T) {
	server, client := serve(t, &Server{Hosts: []string{"map.example.com"}})
	for host, want := range map[string]int{"evil.example": 421, "127.0.0.1.evil.example": 421, "": 421, "map.example.com": 200, "MAP.example.com:8443": 200, "localhost:1": 200, "[::1]:1": 200} {
		answer, _ := ask(t, client, "GET", server.URL+"/api/graph", func(r *http.Request) { bearer("sesame")(r); r.Host = host })
		if host == "" {
			continue // the client puts the address there
		}
		if answer.StatusCode != want {
			t.Errorf("host %q: %s, want %d", host, answer.Status, want)
		}
	}
	answer, _ := ask(t, client, "POST", server.URL+"/login", func(r *http.Request) {
		r.Header.Set("Origin", "https://evil.example")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	})
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a login of another origin: %s", answer.Status)
	}
}

func TestEachAnswerForbidsWhatComesFromElsewhere(t *testing.T) {
	server, client := serve(t, &Server{})
	for _, path := range []string{"/", "/map.js", "/api/graph", "/nothing"} {
		answer, _ := ask(t, client, "GET", server.URL+path, nil)
		if h := answer.Header; !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'self';") || h.Get("X-Frame-Options") != "DENY" ||
			h.Get("Access-Control-Allow-Origin") != "" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestMomentsComeAsTheyHappen(t *testing.T) {
	s := &Server{}
	server, _ := serve(t, s)
	lines := follow(t, server)
	if first := nextTick(t, lines); len(first.Edges) != 0 || !first.At.Equal(noon) {
		t.Errorf("at first %+v", first)
	}
	s.History.Add([]fleet.Node{node("one", toDB(6, 0, 0, 0, noon))}, noon.Add(5*time.Second))
	if next := nextTick(t, lines); len(next.Edges) != 1 || next.Edges[0].ID != "shop/web→shop/db" || next.Edges[0].Opened != 1 {
		t.Errorf("then %+v", next)
	}
}

func follow(t *testing.T, server *httptest.Server) *bufio.Scanner {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	bearer("sesame")(r)
	answer, err := http.DefaultTransport.(*http.Transport).Clone().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s, %v", answer.Status, answer.Header)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return lines
}

func nextTick(t *testing.T, lines *bufio.Scanner) (tick Tick) {
	t.Helper()
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := json.Unmarshal([]byte(data), &tick); err != nil {
				t.Fatal(err)
			}
			return tick
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return tick
}

// Nobody waits for a reader: it gets the last moment, not all that it missed.
func TestAReaderThatDoesNotReadHoldsNothingUp(t *testing.T) {
	s := &Server{}
	server, _ := serve(t, s)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /api/live HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := follow(t, server)
	nextTick(t, lines)
	for i := range 200 {
		s.History.Add([]fleet.Node{node("one", toDB(uint64(i), 1, 0, 0, noon))}, noon.Add(time.Duration(i+1)*time.Second))
	}
	last := noon.Add(200 * time.Second)
	for tick := nextTick(t, lines); !tick.At.Equal(last); {
		tick = nextTick(t, lines)
	}
}

func TestSoManyMayFollowAndNoMore(t *testing.T) {
	s := &Server{}
	for i := range maxOfViewer {
		if !s.streams.enter("ann") {
			t.Fatalf("stream %d of one viewer is refused", i)
		}
	}
	if s.streams.enter("ann") {
		t.Error("one viewer may follow without end")
	}
	for range maxStreams - maxOfViewer {
		if !s.streams.enter("") {
			t.Fatal("refused too early")
		}
	}
	server, client := serve(t, s)
	if answer, _ := ask(t, client, "GET", server.URL+"/api/live", bearer("sesame")); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more: %s", answer.Status)
	}
	s.streams.leave("ann")
	if !s.streams.enter("ann") {
		t.Error("a place that was left is not free")
	}
}

func TestWrongQuestionsAreToldSo(t *testing.T) {
	server, client := serve(t, &Server{})
	if answer, text := ask(t, client, "GET", server.URL+"/api/graph?at=noon", bearer("sesame")); answer.StatusCode != 400 || !strings.HasPrefix(text, `at "noon": want`) {
		t.Errorf("%s: %s", answer.Status, text)
	}
	if answer, _ := ask(t, client, "GET", server.URL+"/api/edge?id="+url.QueryEscape("a→b"), bearer("sesame")); answer.StatusCode != 404 {
		t.Errorf("%s", answer.Status)
	}
}
