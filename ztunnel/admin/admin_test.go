// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// running is a served Config, with what its functions do at hand.
type running struct {
	*Server
	t       *testing.T
	socket  string
	level   *slog.LevelVar // of what has no scope
	quit    atomic.Bool
	pending atomic.Pointer[[]string]
}

func start(t *testing.T) *running {
	t.Helper()
	r := &running{t: t, socket: filepath.Join(t.TempDir(), "state", "admin.sock"), level: new(slog.LevelVar)}
	r.pending.Store(&[]string{})
	server, err := Open(Config{
		MetricsAddress: "127.0.0.1:0", ReadyAddress: "127.0.0.1:0", AdminAddress: "127.0.0.1:0", Socket: r.socket,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a 1\n") }),
		Pending: func() []string { return *r.pending.Load() },
		Dumps: map[string]func() any{
			"workloads": func() any { return []string{"shop/web"} },
			"version":   func() any { return "v1" },
		},
		Renew: func(_ context.Context, ids []string) (any, error) {
			if slices.Contains(ids, "wrong") {
				return nil, errors.New("wrong is no identity")
			}
			return map[string]any{"asked": ids}, nil
		},
		Probe: func(_ context.Context, query url.Values) (any, error) {
			if query.Get("pod") == "" {
				return nil, errors.New("pod: there is none")
			}
			return map[string]any{"kernel": query.Get("pod")}, nil
		},
		Events: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}\n") }),
		Quit:   func() { r.quit.Store(true) },
		Levels: loglevel.New(slog.New(slog.DiscardHandler), r.level),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// ask sends one request to an endpoint and returns status and body.
func (r *running) ask(endpoint, method, path string, header ...string) (int, string) {
	r.t.Helper()
	addr := r.Addr(endpoint)
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, addr.Network(), addr.String())
		},
	}
	host := "localhost"
	if len(header) > 0 {
		host = header[0]
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+host+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestMetricsAreServedOnBothOfTheirPaths(t *testing.T) {
	r := start(t)
	for _, path := range []string{"/metrics", "/stats/prometheus"} {
		if code, body := r.ask("metrics", "GET", path); code != 200 || body != "a 1\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
}

func TestReadinessNamesWhatIsPending(t *testing.T) {
	r := start(t)
	if code, body := r.ask("readiness", "GET", "/healthz/ready"); code != 200 || body != "ready\n" {
		t.Errorf("nothing pending: %d %q", code, body)
	}
	r.pending.Store(&[]string{"sandboxes: not yet", "CA: the token expired (-token-file)"})
	if code, body := r.ask("readiness", "GET", "/healthz/ready"); code != 503 || body != "not ready\nsandboxes: not yet\nCA: the token expired (-token-file)\n" {
		t.Errorf("two pending: %d %q", code, body)
	}
}

func TestTheConfigurationDumpHasAKeyPerDump(t *testing.T) {
	r := start(t)
	code, body := r.ask("admin", "GET", "/config_dump")
	var dump map[string]any
	if err := json.Unmarshal([]byte(body), &dump); err != nil || code != 200 {
		t.Fatalf("%d %v: %s", code, err, body)
	}
	if len(dump) != 2 || dump["version"] != "v1" || dump["workloads"].([]any)[0] != "shop/web" {
		t.Errorf("got %v", dump)
	}
}

func TestEventsAreReadOnLoopbackAlone(t *testing.T) {
	r := start(t)
	for endpoint, want := range map[string]int{"admin": 200, "metrics": 404, "readiness": 404} {
		if code, _ := r.ask(endpoint, "GET", "/events"); code != want {
			t.Errorf("%s: status %d, want %d", endpoint, code, want)
		}
	}
	if code, _ := r.ask("admin", "GET", "/events", "evil.example"); code != 421 {
		t.Errorf("by another host's name: status %d", code)
	}
}

func TestTheTCPEndpointsChangeNothing(t *testing.T) {
	r := start(t)
	for _, endpoint := range []string{"admin", "metrics", "readiness"} {
		for _, path := range []string{"/logging?level=debug", "/logging?level=debug&reset", "/quitquitquit", "/certs/renew?all", "/probe?pod=u", "/debug/pprof/heap", "/debug/pprof/"} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				if code, _ := r.ask(endpoint, method, path); code != 404 && code != 405 && (code != 403 || endpoint != "admin") {
					t.Errorf("%s %s on %s: status %d", method, path, endpoint, code)
				}
			}
		}
	}
	if code, _ := r.ask("admin", "POST", "/config_dump"); code != 405 {
		t.Errorf("POST /config_dump: status %d, want 405", code)
	}
	if r.quit.Load() || r.level.Level() != slog.LevelInfo {
		t.Error("a TCP endpoint changed state")
	}
}

func TestARebondHostNameIsRefused(t *testing.T) {
	r := start(t)
	for host, want := range map[string]int{"localhost": 200, "127.0.0.1:15000": 200, "[::1]:15000": 200, "evil.example": 421, "10.0.0.1": 421} {
		if code, _ := r.ask("admin", "GET", "/config_dump", host); code != want {
			t.Errorf("host %s: status %d, want %d", host, code, want)
		}
	}
}

// levels is the answer of /logging.
func levels(rest, certs string) string {
	return strings.NewReplacer("REST", rest, "CERTS", certs).Replace(
		"level REST\naccess REST\ncerts CERTS\nexport REST\npods REST\nreport REST\nsource REST\nztunnel REST\n")
}

func TestTheLogLevelIsSetAndResetOnTheSocket(t *testing.T) {
	r := start(t)
	for _, step := range []struct {
		query, body string
		code        int
	}{
		{"?level=debug", levels("debug", "debug"), 200},
		{"", levels("debug", "debug"), 200},
		{"?level=loud", "level \"loud\": want debug, info, warn or error\n", 400},
		{"?level=error,crets=debug", "scope \"crets\": want access, certs, export, pods, report, source or ztunnel\n", 400},
		{"?level=certs=warn", levels("debug", "warn"), 200},
		{"?level=ERROR,certs:info", levels("error", "info"), 200},
		{"?reset", levels("info", "info"), 200},
	} {
		if code, body := r.ask("admin socket", "POST", "/logging"+step.query); code != step.code || body != step.body {
			t.Errorf("%s: %d %q, want %d %q", step.query, code, body, step.code, step.body)
		}
	}
	if code, _ := r.ask("admin socket", "GET", "/logging?level=debug"); code != 405 {
		t.Errorf("GET /logging: status %d, want 405", code)
	}
}

// istioctl ztunnel-config log asks by POST, with an empty level when it only reads.
func TestTheLogLevelIsReadByTCPAndChangedByRoot(t *testing.T) {
	r := start(t)
	if _, err := Post(t.Context(), r.socket, "/logging?level=warn,certs%3Ddebug"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		method, query, body string
		code                int
	}{
		{"GET", "", levels("warn", "debug"), 200},
		{"POST", "?level=", levels("warn", "debug"), 200},
		{"POST", "?level=debug", "the log level is changed by root alone: curl --unix-socket " + r.socket + " -X POST 'http://ztunnel/logging?level=debug'\n", 403},
		{"POST", "?level=certs=debug", "the log level is changed by root alone: curl --unix-socket " + r.socket + " -X POST 'http://ztunnel/logging?level=debug'\n", 403},
		{"POST", "?level=&reset", "the log level is changed by root alone: curl --unix-socket " + r.socket + " -X POST 'http://ztunnel/logging?level=debug'\n", 403},
		{"GET", "", levels("warn", "debug"), 200},
	} {
		if code, body := r.ask("admin", step.method, "/logging"+step.query); code != step.code || body != step.body {
			t.Errorf("%s %s: %d %q, want %d %q", step.method, step.query, code, body, step.code, step.body)
		}
	}
}

// What has something tried is on the socket, beside what is read there, too.
func TestProbesAreAskedForOnTheSocket(t *testing.T) {
	r := start(t)
	if body, err := Post(t.Context(), r.socket, "/probe?pod=u1"); err != nil || strings.TrimSpace(string(body)) != `{"kernel":"u1"}` {
		t.Errorf("%s, %v", body, err)
	}
	if _, err := Post(t.Context(), r.socket, "/probe"); err == nil || err.Error() != "400 Bad Request: pod: there is none" {
		t.Errorf("%v", err)
	}
	if code, _ := r.ask("admin socket", "GET", "/probe?pod=u1"); code != 405 {
		t.Errorf("GET /probe: status %d, want 405", code)
	}
	if code, body := r.ask("admin socket", "GET", "/config_dump"); code != 200 || !strings.Contains(body, "shop/web") {
		t.Errorf("GET /config_dump: status %d: %s", code, body)
	}
}

// What renews is on the socket, which only root reaches.
func TestRenewalsAreAskedForOnTheSocket(t *testing.T) {
	r := start(t)
	many := "/certs/renew?id=0" + strings.Repeat("&id=1", maxRenew)
	for _, step := range []struct {
		target, answer, problem string
	}{
		{"/certs/renew?all", `{"asked":null}`, ""},
		{"/certs/renew?id=shop/web&id=shop/db", `{"asked":["shop/web","shop/db"]}`, ""},
		{"/certs/renew", "", "400 Bad Request: want id=IDENTITY, or all"},
		{"/certs/renew?all&id=shop/web", "", "400 Bad Request: want id=IDENTITY, or all"},
		{"/certs/renew?id=wrong", "", "400 Bad Request: wrong is no identity"},
		{many, "", "400 Bad Request: 33 identities, the limit is 32: want fewer, or all"},
	} {
		body, err := Post(t.Context(), r.socket, step.target)
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if strings.TrimSpace(string(body)) != step.answer || problem != step.problem {
			t.Errorf("%s: %s, %s", step.target, body, problem)
		}
	}
	if code, _ := r.ask("admin socket", "GET", "/certs/renew?all"); code != 405 {
		t.Errorf("GET: status %d, want 405", code)
	}
	if _, err := Post(t.Context(), r.socket+".none", "/certs/renew?all"); err == nil || strings.Contains(err.Error(), "http") {
		t.Errorf("where nobody listens: %v", err)
	}
}

func TestQuitAndProfilesAreOnTheSocket(t *testing.T) {
	r := start(t)
	if code, body := r.ask("admin socket", "GET", "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("pprof: %d %.80q", code, body)
	}
	if code, _ := r.ask("admin socket", "POST", "/quitquitquit"); code != 200 || !r.quit.Load() {
		t.Errorf("quit: status %d, asked %v", code, r.quit.Load())
	}
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	r := start(t)
	for path, want := range map[string]os.FileMode{r.socket: 0o600, filepath.Dir(r.socket): 0o700} {
		stat, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := stat.Mode().Perm(); got != want {
			t.Errorf("%s has mode %#o, want %#o", path, got, want)
		}
	}
}

func TestOnlyLoopbackAddressesServeTheAdminEndpoint(t *testing.T) {
	for _, address := range []string{":15000", "0.0.0.0:0", "10.0.0.1:0", "localhost:0", "[::]:0"} {
		s := &Server{}
		if err := s.openLoopback("admin", address, "", nil); err == nil {
			s.Close()
			t.Errorf("%s: no error", address)
		}
	}
}

func TestAPortThatIsTakenIsKnownAtStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = Open(Config{
		MetricsAddress: taken.Addr().String(), ReadyAddress: "127.0.0.1:0", AdminAddress: "127.0.0.1:0",
		Socket: filepath.Join(t.TempDir(), "state", "admin.sock"), Levels: loglevel.New(slog.New(slog.DiscardHandler), new(slog.LevelVar)), Metrics: http.NotFoundHandler(),
	})
	if err == nil || !strings.HasPrefix(err.Error(), "metrics: ") {
		t.Errorf("got %v", err)
	}
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	r := start(t)
	conn, err := net.Dial("tcp", r.Addr("readiness").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", response.StatusCode)
	}
}

func TestAClientThatSendsNoHeaderIsCutOff(t *testing.T) {
	r := start(t)
	conn, err := net.Dial("tcp", r.Addr("admin").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(headerTimeout + time.Minute))
	io.WriteString(conn, "GET / HT")
	if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("still open after the header timeout: %v", err)
	}
}

// Pods may open connections and say nothing.
func TestClientsOfManyConnectionsKeepNoOtherOut(t *testing.T) {
	r := start(t)
	ready := r.Addr("readiness").String()
	from := func(ip string) *net.Dialer {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 10 * time.Second}
	}
	for i := range 2 * maxConns {
		conn, err := from(fmt.Sprintf("127.0.1.%d", i%100)).DialContext(t.Context(), "tcp", ready)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	kubelet := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: from("127.0.0.1").DialContext}}
	resp, err := kubelet.Get("http://" + ready + "/healthz/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestTheClientThatHoldsMostLosesItsOldestConnection(t *testing.T) {
	l := &limited{n: 4}
	conn := func(client string) *counted { return &counted{client: netip.MustParseAddr(client), of: l} }
	few, oldest := conn("10.0.0.1"), conn("10.0.0.2")
	for _, c := range []*counted{few, oldest, conn("10.0.0.2"), conn("10.0.0.2")} {
		if lost := l.add(c); lost != nil {
			t.Errorf("%v lost a connection, though there was room", lost.client)
		}
	}
	next := l.open[2]
	if lost := l.add(conn("10.0.0.3")); lost != oldest {
		t.Errorf("%v lost a connection", lost.client)
	}
	if lost := l.add(conn("10.0.0.2")); lost != next {
		t.Errorf("%v lost a connection to the client that holds most", lost.client)
	}
	l.remove(few)
	if lost := l.add(conn("10.0.0.4")); lost != nil {
		t.Errorf("%v lost a connection, though one was closed", lost.client)
	}
}

func TestAClosedConnectionIsCountedNoMore(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := limit(inner, 2)
	defer ln.Close()
	for range 3 {
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if open := ln.(*limited).open; len(open) != 0 {
		t.Errorf("%d connections are counted", len(open))
	}
}
