// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/culvert-mesh/culvert/ztunnel/otlp"
)

// receiver is OpenTelemetry's own service of logs, as its collector has it.
type receiver struct {
	collogspb.UnimplementedLogsServiceServer
	mu      sync.Mutex
	refuse  error // the next request
	reject  int64 // of the next request
	records []*logspb.LogRecord
	sender  []*commonpb.KeyValue
}

func (r *receiver) Export(_ context.Context, q *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuse; err != nil {
		r.refuse = nil
		return nil, err
	}
	answer := &collogspb.ExportLogsServiceResponse{}
	if r.reject > 0 {
		answer.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: r.reject, ErrorMessage: "too old"}
		r.reject = 0
		return answer, nil
	}
	for _, resource := range q.ResourceLogs {
		r.sender = resource.Resource.Attributes
		for _, scope := range resource.ScopeLogs {
			r.records = append(r.records, scope.LogRecords...)
		}
	}
	return answer, nil
}

// ServeHTTP is the same by OTLP/HTTP.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	var request collogspb.ExportLogsServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || q.URL.Path != "/v1/logs" || q.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "no request", http.StatusBadRequest)
		return
	}
	answer, err := r.Export(q.Context(), &request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text, _ := proto.Marshal(answer)
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(text)
}

func (r *receiver) has(n int) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.records) == n
	}
}

// newReceiver returns a receiver and its endpoint.
func newReceiver(t *testing.T, scheme, address string) (*receiver, string) {
	r := &receiver{}
	if scheme == "http" {
		server := httptest.NewUnstartedServer(r)
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server.Listener.Close()
		server.Listener = ln
		server.Start()
		t.Cleanup(server.Close)
		return r, server.URL
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collogspb.RegisterLogsServiceServer(server, r)
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	return r, "grpc://" + ln.Addr().String()
}

// What ztunnel writes by hand, OpenTelemetry's own code reads: over gRPC and HTTP, over v4
// and v6.
func TestOpenTelemetryUnderstandsAccessRecords(t *testing.T) {
	for _, scheme := range []string{"http", "grpc"} {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			t.Run(scheme+" "+address, func(t *testing.T) { understands(t, scheme, address) })
		}
	}
}

func understands(t *testing.T, scheme, address string) {
	r, endpoint := newReceiver(t, scheme, address)
	e, err := otlp.New(otlp.Config{
		Endpoint: endpoint, Every: 10 * time.Millisecond, Log: quiet,
		Resource: []slog.Attr{slog.String("service.name", "ztunnel"), slog.String("k8s.node.name", "node1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	log := slog.New(e.Handler(slog.NewTextHandler(io.Discard, nil)))

	began := time.Now()
	log.Error("connection complete", slog.Group("", slog.String("src.addr", "10.0.0.1:80"), slog.Uint64("bytes_sent", 1<<40),
		slog.Int("bytes_recv", -1), slog.Bool("yes", true), slog.Float64("half", 0.5), slog.String("error", "no \xff UTF-8"),
		slog.String("long", string(make([]byte, 20_000)))))
	eventually(t, "it is there", r.has(1))
	r.mu.Lock()
	got, sender := r.records[0], r.sender
	r.refuse = status.Error(codes.Unavailable, "not now")
	r.mu.Unlock()
	if at := time.Unix(0, int64(got.TimeUnixNano)); at.Before(began.Add(-time.Second)) || time.Since(at) < 0 {
		t.Errorf("of %v, it began at %v", at, began)
	}
	if got.SeverityNumber != logspb.SeverityNumber_SEVERITY_NUMBER_ERROR || got.SeverityText != "ERROR" || got.Body.GetStringValue() != "connection complete" {
		t.Errorf("%v", got)
	}
	text := func(s string) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
	}
	want := []*commonpb.KeyValue{
		{Key: "src.addr", Value: text("10.0.0.1:80")},
		{Key: "bytes_sent", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: 1 << 40}}},
		{Key: "bytes_recv", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: -1}}},
		{Key: "yes", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}}},
		{Key: "half", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: 0.5}}},
		{Key: "error", Value: text("no \uFFFD UTF-8")},
		{Key: "long", Value: text(string(make([]byte, 20_000)))},
	}
	same(t, want, got.Attributes)
	same(t, []*commonpb.KeyValue{{Key: "service.name", Value: text("ztunnel")}, {Key: "k8s.node.name", Value: text("node1")}}, sender)

	// It is away for a moment, and gets what waited.
	log.Info("second")
	eventually(t, "what was refused once is there", r.has(2))
	r.mu.Lock()
	r.reject = 1
	r.mu.Unlock()
	log.Info("third")
	eventually(t, "what is rejected is counted", func() bool { return e.Stats()[otlp.Refused] == 1 })
	if got := e.Stats(); got[otlp.Sent] != 2 {
		t.Error(got)
	}
}

func same(t *testing.T, want, got []*commonpb.KeyValue) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%d attributes, want %d: %v", len(got), len(want), got)
		return
	}
	for i := range want {
		if !proto.Equal(want[i], got[i]) {
			t.Errorf("%v, want %v", got[i], want[i])
		}
	}
}
