// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// receiver is one of OTLP by HTTP and by gRPC, that answers what the test says.
type receiver struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]

	mu      sync.Mutex
	records []string // bodies of what was taken
}

// newReceiver listens on an address, with TLS or without.
func newReceiver(t *testing.T, network, address string, secure bool) *receiver {
	t.Helper()
	r := &receiver{}
	r.says(r.takes)
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { (*r.answer.Load())(w, q) }))
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r.Listener.Close()
	r.Listener = ln
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	r.Config.Protocols = &protocols
	if secure {
		r.EnableHTTP2 = true
		r.StartTLS()
	} else {
		r.Start()
	}
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) says(h http.HandlerFunc) { r.answer.Store(&h) }

// takes takes what it gets.
func (r *receiver) takes(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	grpc := q.Header.Get("Content-Type") == "application/grpc"
	if grpc {
		body = body[5:]
	}
	var found []string
	resources, _ := field(body, requestResourceLogs)
	scopes, _ := field(resources, resourceLogsScopeLogs)
	for len(scopes) > 0 {
		number, kind, n := protowire.ConsumeTag(scopes)
		scopes = scopes[n:]
		if number == scopeLogsRecords {
			record, _ := protowire.ConsumeBytes(scopes)
			text, _ := field(record, recordBody)
			body, _ := field(text, valueString)
			found = append(found, string(body))
		}
		scopes = scopes[max(0, protowire.ConsumeFieldValue(number, kind, scopes)):]
	}
	r.mu.Lock()
	r.records = append(r.records, found...)
	r.mu.Unlock()
	if grpc {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 0})
		w.Header().Set("Grpc-Status", "0")
	}
}

func (r *receiver) has() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records)
}

// exporter runs one that sends often, and returns a logger whose records it gets.
func exporter(t *testing.T, cfg Config) (*Exporter, *slog.Logger, func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Every = 5 * time.Millisecond
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(stop)
	return e, slog.New(e.Handler(slog.NewTextHandler(io.Discard, nil))), stop
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

func TestRecordsArrive(t *testing.T) {
	for scheme, secure := range map[string]bool{"http": false, "grpc": false, "https": true, "grpcs": true} {
		for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
			t.Run(scheme+" "+network, func(t *testing.T) {
				r := newReceiver(t, network, address, secure)
				cfg := Config{Endpoint: scheme + "://" + r.Listener.Addr().String(), LastWords: time.Minute}
				if secure {
					cfg.RootFile = rootOf(t, r)
				}
				e, log, stop := exporter(t, cfg)
				for range 3 * batchMost {
					log.Info("connection complete", "result", "ok")
				}
				eventually(t, "all are there", func() bool { return r.has() == 3*batchMost })
				log.Info("the last one")
				stop()
				if r.has() != 3*batchMost+1 || e.Stats()[Sent] != 3*batchMost+1 {
					t.Errorf("%d are there when it has ended; %v", r.has(), e.Stats())
				}
			})
		}
	}
}

// rootOf is a file with the certificate of a receiver, which vouches for itself.
func rootOf(t *testing.T, r *receiver) string {
	file := filepath.Join(t.TempDir(), "root.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A receiver that the roots of the file do not vouch for gets nothing. Once they do, it gets
// what has waited.
func TestAStrangerGetsNothing(t *testing.T) {
	r := newReceiver(t, "tcp", "127.0.0.1:0", true)
	asked := make(chan struct{}, 1)
	r.Config.ErrorLog = slog.NewLogLogger(told(func() {
		select {
		case asked <- struct{}{}:
		default:
		}
	}), slog.LevelInfo)
	file := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(file, another(t), 0o600); err != nil {
		t.Fatal(err)
	}
	_, log, _ := exporter(t, Config{Endpoint: "https://" + r.Listener.Addr().String(), RootFile: file})
	log.Info("connection complete")
	<-asked
	if r.has() != 0 {
		t.Error("it got a record")
	}
	text, err := os.ReadFile(rootOf(t, r))
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is there", func() bool { return r.has() == 1 })
}

// another is the certificate of somebody else.
func another(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// told is a handler that calls for each record.
type told func()

func (told) Enabled(context.Context, slog.Level) bool    { return true }
func (f told) Handle(context.Context, slog.Record) error { f(); return nil }
func (f told) WithAttrs([]slog.Attr) slog.Handler        { return f }
func (f told) WithGroup(string) slog.Handler             { return f }

// The receiver is away, comes and goes: nothing is lost that had room.
func TestAReceiverThatIsAwayGetsWhatWaited(t *testing.T) {
	address := env.Address(t)
	for _, scheme := range []string{"http", "grpc"} {
		t.Run(scheme, func(t *testing.T) {
			lost := make(chan struct{}, 100)
			e, log, _ := exporter(t, Config{Endpoint: scheme + "://" + address, Log: slog.New(told(func() { lost <- struct{}{} }))})
			log.Info("one")
			<-lost
			r := newReceiver(t, "tcp", address, false)
			eventually(t, "the first is there", func() bool { return r.has() == 1 })
			r.CloseClientConnections()
			r.Close()
			log.Info("two")
			again := newReceiver(t, "tcp", address, false)
			eventually(t, "the second is there", func() bool { return again.has() == 1 })
			eventually(t, "both are counted", func() bool { return e.Stats()[Sent] == 2 })
			if got := e.Stats(); got[Full]+got[Refused]+got[Expired] != 0 {
				t.Error(got)
			}
			again.Close()
		})
	}
}

// A receiver that takes the connection and never answers costs a bounded queue, and nobody
// who logs waits.
func TestAReceiverThatHangsStopsNobody(t *testing.T) {
	r := newReceiver(t, "tcp", "127.0.0.1:0", false)
	hanging, release := make(chan struct{}, 100), make(chan struct{})
	r.says(func(w http.ResponseWriter, q *http.Request) {
		hanging <- struct{}{}
		select {
		case <-release:
		case <-q.Context().Done():
		}
		r.takes(w, q)
	})
	e, log, _ := exporter(t, Config{Endpoint: "http://" + r.Listener.Addr().String(), Timeout: time.Minute})
	log.Info("first")
	<-hanging
	for range recordsMost + 100 { // it would hang here
		log.Info("connection complete")
	}
	got := e.Stats()
	e.mu.Lock()
	waiting, bytes := len(e.queue), e.bytes
	e.mu.Unlock()
	if got[Full] < 100 || waiting > recordsMost || bytes > bytesMost {
		t.Errorf("%v; %d wait, of %d bytes", got, waiting, bytes)
	}
	close(release)
	eventually(t, "what waited is there", func() bool { return r.has() == 1+waiting })
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bytes != 0 || len(e.queue) != 0 {
		t.Errorf("an empty queue has %d bytes", e.bytes)
	}
}

// An attempt that hangs ends, and the batch is sent again.
func TestAnAttemptThatHangsIsMadeAgain(t *testing.T) {
	r := newReceiver(t, "tcp", "127.0.0.1:0", false)
	var times atomic.Int64
	r.says(func(w http.ResponseWriter, q *http.Request) {
		if times.Add(1) == 1 {
			io.Copy(io.Discard, q.Body) // else the server does not see the client go
			<-q.Context().Done()
			return
		}
		r.takes(w, q)
	})
	_, log, _ := exporter(t, Config{Endpoint: "grpc://" + r.Listener.Addr().String(), Timeout: time.Second})
	log.Info("connection complete")
	eventually(t, "it is there", func() bool { return r.has() >= 1 }) // twice, if an answer is late
}

func grpcSays(status, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", status)
		w.Header().Set("Grpc-Message", message)
	}
}

func httpSays(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		w.Header().Set("Retry-After", "0")
		http.Error(w, "not now", code)
	}
}

// What may be taken later is sent again; what is refused is dropped, counted, and does not
// hold up the next.
func TestWhatAReceiverAnswersDecides(t *testing.T) {
	for _, c := range []struct {
		name, scheme string
		answer       http.HandlerFunc
		again        bool
	}{
		{"status 503", "http", httpSays(503), true},
		{"status 429", "http", httpSays(429), true},
		{"status 400", "http", httpSays(400), false},
		{"status 404", "http", httpSays(404), false},
		{"a redirect", "http", httpSays(307), false},
		{"gRPC unavailable", "grpc", grpcSays("14", "not now"), true},
		{"gRPC resources exhausted", "grpc", grpcSays("8", "full"), true},
		{"gRPC invalid argument", "grpc", grpcSays("3", "what%20is%20this"), false},
		{"gRPC unimplemented", "grpc", grpcSays("12", ""), false},
		{"status 502 of a proxy", "grpc", httpSays(502), true},
		{"no gRPC", "grpc", func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "<html>") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t, "tcp", "127.0.0.1:0", false)
			var times atomic.Int64
			r.says(func(w http.ResponseWriter, q *http.Request) { times.Add(1); c.answer(w, q) })
			e, log, _ := exporter(t, Config{Endpoint: c.scheme + "://" + r.Listener.Addr().String()})
			log.Info("first")
			eventually(t, "it was asked", func() bool { return times.Load() > 0 })
			if !c.again {
				eventually(t, "it is dropped", func() bool { return e.Stats()[Refused] == 1 })
			}
			r.says(r.takes)
			log.Info("second")
			want := map[bool]int{true: 2, false: 1}[c.again]
			eventually(t, "the rest is there", func() bool { return r.has() == want })
			eventually(t, "it is counted", func() bool { return e.Stats()[Sent] == uint64(want) })
		})
	}
}

// A batch that nobody takes goes when it is too old.
func TestABatchGetsTooOld(t *testing.T) {
	e, log, _ := exporter(t, Config{Endpoint: "http://" + env.Address(t), GiveUp: time.Nanosecond})
	log.Info("connection complete")
	eventually(t, "it is given up", func() bool { return e.Stats()[Expired] == 1 })
}

func TestAReceiverMayTakeAPart(t *testing.T) {
	r := newReceiver(t, "tcp", "127.0.0.1:0", false)
	answer := appendMessage(nil, responsePartialSuccess, func(b []byte) []byte {
		b = protowire.AppendTag(b, partialRejected, protowire.VarintType)
		return appendString(protowire.AppendVarint(b, 1), partialMessage, "too old")
	})
	r.says(func(w http.ResponseWriter, q *http.Request) { io.Copy(io.Discard, q.Body); w.Write(answer) })
	e, log, _ := exporter(t, Config{Endpoint: "http://" + r.Listener.Addr().String()})
	log.Info("connection complete")
	eventually(t, "it is counted", func() bool { return e.Stats()[Refused] == 1 })
	if got := e.Stats(); got[Sent] != 0 || got[Expired] != 0 {
		t.Error(got)
	}
}

func TestWrongEndpointsAreRefused(t *testing.T) {
	for _, s := range []string{"", "collector:4317", "udp://c:1", "http://", "http://:4318", "grpc://c", "grpc://c:4317/v1/logs", "http://u:p@c:4318", "http://c:4318?x=1", "grp://c:1", "://"} {
		if _, err := New(Config{Endpoint: s}); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if _, err := New(Config{Endpoint: "https://c", RootFile: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("no roots: %v", err)
	}
}

// A response may hold anything.
func FuzzRejected(f *testing.F) {
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01})
	f.Fuzz(func(t *testing.T, response []byte) { rejected(response) })
}

// A refusal has room in a queue that what went well has filled.
func TestWhatWentWellLeavesRoomForRefusals(t *testing.T) {
	e, err := New(Config{Endpoint: "http://192.0.2.1:4318", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(e.Handler(slog.NewTextHandler(io.Discard, nil)))
	for range recordsMost {
		log.Info("connection alive")
	}
	before := e.Stats()[Full]
	log.Warn("connection failed")
	if after := e.Stats()[Full]; before == 0 || after != before {
		t.Errorf("%d dropped, then %d", before, after)
	}
}

func TestAnEndpointIsAURLWithAPort(t *testing.T) {
	if got, err := Endpoint("HTTPS://c.test:4318"); err != nil || !Secure(got) {
		t.Errorf("%s: %v", got, err)
	}
	for _, wrong := range []string{"http://c.test:0", "grpc://c.test:99999"} {
		if _, err := Endpoint(wrong); err == nil || !strings.Contains(err.Error(), "is no port, 1 to 65535") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
