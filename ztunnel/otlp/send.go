// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	grpcMethod   = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
	httpPath     = "/v1/logs"
	answerMost   = 64 << 10 // of a response that is read
	sentenceMost = 300      // of an error that is told
)

// sender posts requests. gRPC is a POST by HTTP/2, too: for one unary call no more is
// needed of it.
type sender struct {
	cfg    Config
	target string
	grpc   bool
	client *http.Client // nil: made anew at the next attempt, with the roots of then
}

func newSender(cfg Config) *sender {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		panic(err) // Endpoint has read it
	}
	s := &sender{cfg: cfg, grpc: strings.HasPrefix(u.Scheme, "grpc")}
	switch {
	case s.grpc:
		u.Scheme = map[string]string{"grpc": "http", "grpcs": "https"}[u.Scheme]
		u.Path = grpcMethod
	case strings.Trim(u.Path, "/") == "":
		u.Path = httpPath
	}
	s.target = u.String()
	return s
}

// open makes a client. Only one goroutine sends, so it needs no lock.
func (s *sender) open() error {
	if s.client != nil {
		return nil
	}
	pool, err := roots(s.cfg.RootFile)
	if err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!s.grpc)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(s.grpc)
	s.client = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			Protocols:       &protocols, IdleConnTimeout: time.Minute, MaxIdleConns: 1, TLSHandshakeTimeout: s.cfg.Timeout,
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// close forgets the client, whose connection or roots may be what is wrong.
func (s *sender) close() {
	if s.client != nil {
		s.client.CloseIdleConnections()
		s.client = nil
	}
}

// send posts one request. Its error is a refusal, later or partly, or one after which the
// same request may be sent again.
func (s *sender) send(ctx context.Context, message []byte) error {
	if err := s.open(); err != nil {
		return err
	}
	err := s.post(ctx, message)
	var some *partly
	if err != nil && !errors.As(err, &some) {
		s.close()
	}
	return err
}

func (s *sender) post(ctx context.Context, message []byte) error {
	kind := "application/x-protobuf"
	if s.grpc {
		kind = "application/grpc"
		message = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.target, bytes.NewReader(message))
	if err != nil {
		return refusal{err}
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("User-Agent", "culvert-ztunnel")
	if s.grpc {
		r.Header.Set("Te", "trailers")
	}
	response, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerMost))
	if err != nil {
		return err
	}
	if s.grpc {
		return grpcAnswer(response, answer)
	}
	return httpAnswer(response, answer)
}

func httpAnswer(r *http.Response, answer []byte) error {
	switch code := r.StatusCode; {
	case code == http.StatusOK:
		return taken(answer)
	case code == http.StatusTooManyRequests, code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		err := errors.New("status " + r.Status)
		if seconds, e := strconv.Atoi(r.Header.Get("Retry-After")); e == nil && seconds >= 0 {
			return later{err, time.Duration(min(seconds, 3600)) * time.Second}
		}
		return err
	default:
		return refusal{fmt.Errorf("status %s: %s", r.Status, short(answer))}
	}
}

// Codes of gRPC by which a call may be made again, as OTLP says.
var again = map[int]bool{1: true, 4: true, 8: true, 10: true, 11: true, 14: true, 15: true}

func grpcAnswer(r *http.Response, answer []byte) error {
	if r.StatusCode != http.StatusOK {
		return httpAnswer(r, answer) // a proxy's, or a server that is none of gRPC
	}
	status, message := r.Trailer.Get("Grpc-Status"), r.Trailer.Get("Grpc-Message")
	if status == "" {
		status, message = r.Header.Get("Grpc-Status"), r.Header.Get("Grpc-Message")
	}
	code, err := strconv.Atoi(status)
	if err != nil {
		return fmt.Errorf("no answer of gRPC, but %s", r.Header.Get("Content-Type"))
	}
	if code == 0 {
		if len(answer) < 5 || answer[0] != 0 {
			return nil
		}
		return taken(answer[5:])
	}
	if text, err := url.PathUnescape(message); err == nil {
		message = text
	}
	err = fmt.Errorf("gRPC status %d: %s", code, short([]byte(message)))
	if again[code] {
		return err
	}
	return refusal{err}
}

func taken(answer []byte) error {
	if n, why := rejected(answer); n > 0 {
		return &partly{n, short([]byte(why))}
	}
	return nil
}

func short(text []byte) string {
	return strings.ToValidUTF8(string(text[:min(len(text), sentenceMost)]), "\uFFFD")
}
