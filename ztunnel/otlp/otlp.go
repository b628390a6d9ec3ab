// SPDX-License-Identifier: Apache-2.0

// Package otlp sends records of connections to a receiver of OpenTelemetry's logs, as the
// collector: by gRPC or by HTTP, both as OTLP says.
//
// A record is encoded by whoever logs it and put into a bounded queue; one goroutine sends
// the queue in batches. Whoever logs never waits: while the receiver is away or slow the
// queue fills, and what has no room is dropped and counted. A batch that the receiver did
// not take, and may take later, is sent again until it is too old.
//
// The messages are written by hand: the packages of OpenTelemetry for that would bring a
// second queue, a second exporter and their modules, for a dozen fields that never change.
package otlp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of what waits and of what is sent at once.
const (
	recordsMost = 16 << 10
	bytesMost   = 8 << 20
	batchMost   = 512
	batchBytes  = 1 << 20
	recordMost  = 64 << 10 // of one record
)

// Config says where records go. Endpoint is required.
type Config struct {
	Endpoint string        // as http://HOST:4318 or grpc://HOST:4317; https and grpcs: with TLS
	RootFile string        // PEM of roots that the receiver's certificate is verified by, read at each start of sending; default those of the system
	Resource []slog.Attr   // of all records: who sends them
	Every    time.Duration // a batch goes when it is full or this old; default 1 s
	Timeout  time.Duration // of one attempt; default 10 s
	// LastWords is how long what is queued when Run ends may take. default 2 s
	LastWords time.Duration
	GiveUp    time.Duration // a batch that was not taken for this long is dropped; default 5 min
	Log       *slog.Logger  // told when the receiver is lost and found; required
}

// Endpoint reads one, and says what is wrong with it.
func Endpoint(s string) (string, error) {
	u, err := url.Parse(s)
	const want = "want a URL as http://otel-collector:4318 or grpc://otel-collector:4317, or with TLS https:// or grpcs://"
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "grpc", "grpcs"}, u.Scheme):
		return "", errors.New(want)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("no user, query or fragment can be in it: " + want)
	case strings.HasPrefix(u.Scheme, "grpc") && strings.Trim(u.Path, "/") != "":
		return "", errors.New("gRPC has no path: " + want)
	case strings.HasPrefix(u.Scheme, "grpc") && u.Port() == "":
		return "", errors.New("it has no port, as 4317: " + want)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("%s is no port, 1 to 65535: %s", port, want)
		}
	}
	return u.String(), nil // its scheme is in lower case
}

// Secure reports whether an endpoint is asked by TLS.
func Secure(endpoint string) bool {
	return strings.HasPrefix(endpoint, "https:") || strings.HasPrefix(endpoint, "grpcs:")
}

// Why records did not arrive: values of a metric's label.
const (
	Sent    = "sent"
	Full    = "dropped_full"     // there was no room: the receiver is away or slow
	Refused = "dropped_refused"  // the receiver does not take them, now or later
	Expired = "dropped_too_late" // it would have taken them, and was away for too long
)

// Exporter sends records. Safe for concurrent use.
type Exporter struct {
	cfg  Config
	send func(ctx context.Context, request []byte) error
	cut  int // records that were queued when sending ended; of Run alone

	mu     sync.Mutex // guards what follows
	queue  [][]byte
	bytes  int
	counts map[string]uint64
	wake   chan struct{} // has room for one: the queue is as long as a batch
}

// New returns an exporter whose queue is empty. Run sends what is put there.
func New(cfg Config) (*Exporter, error) {
	if _, err := Endpoint(cfg.Endpoint); err != nil {
		return nil, err
	}
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&cfg.Every, time.Second)
	set(&cfg.Timeout, 10*time.Second)
	set(&cfg.GiveUp, 5*time.Minute)
	set(&cfg.LastWords, 2*time.Second)
	if _, err := roots(cfg.RootFile); err != nil {
		return nil, err
	}
	e := &Exporter{
		cfg: cfg, wake: make(chan struct{}, 1),
		counts: map[string]uint64{Sent: 0, Full: 0, Refused: 0, Expired: 0},
	}
	e.send = newSender(cfg).send
	return e, nil
}

// roots reads the file; nil: the system's.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return pool, nil
}

// Stats is how many records were sent, and were dropped and why.
func (e *Exporter) Stats() map[string]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	counts := make(map[string]uint64, len(e.counts))
	for k, n := range e.counts {
		counts[k] = n
	}
	return counts
}

func (e *Exporter) count(what string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[what] += uint64(n)
}

// put queues an encoded record, or drops it. What went well leaves a quarter of the room to
// what did not: thousands of connections may say at once that they are alive.
func (e *Exporter) put(record []byte, level slog.Level) {
	records, bytes := recordsMost, bytesMost
	if level < slog.LevelWarn {
		records, bytes = records/4*3, bytes/4*3
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) >= records || e.bytes+len(record) > bytes || len(record) > recordMost {
		e.counts[Full]++
		return
	}
	e.queue = append(e.queue, record)
	e.bytes += len(record)
	if len(e.queue) >= batchMost {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// take takes a batch from the queue.
func (e *Exporter) take() (batch [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	size := 0
	for len(batch) < min(batchMost, len(e.queue)) && size < batchBytes {
		record := e.queue[len(batch)]
		batch = append(batch, record)
		size += len(record)
	}
	e.bytes -= size
	clear(e.queue[:len(batch)])
	if e.queue = e.queue[len(batch):]; len(e.queue) == 0 {
		e.queue = nil // its memory, too
	}
	return batch
}

// Handler gives records to next and to the exporter, if they are at level or above.
func (e *Exporter) Handler(next slog.Handler) slog.Handler { return handler{Handler: next, e: e} }

type handler struct {
	slog.Handler
	e     *Exporter
	attrs []slog.Attr
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.e.put(appendRecord(nil, &r, h.attrs), r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.e, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup has no user: names of the access record are whole.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.e, h.attrs}
}

func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
