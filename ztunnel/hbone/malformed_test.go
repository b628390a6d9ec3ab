// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/rate"
)

// forbiddenFields may stand in no header list, neither of a request nor of an answer.
var forbiddenFields = [][2]string{
	{"connection", "close"}, {"proxy-connection", "keep-alive"}, {"keep-alive", "timeout=5"},
	{"transfer-encoding", "chunked"}, {"upgrade", "h2c"}, {"te", "gzip"}, {"te", "trailers, deflate"},
	{"Baggage", "x"}, {"", "x"}, {"a b", "x"}, {"a:b", "x"}, {"a\x00", "x"}, {"a\r\nb", "x"}, {"ä", "x"}, {"a\x7f", "x"},
	{"x", "a\rb"}, {"x", "a\nb"}, {"x", "a\x00b"}, {"x", "a\x01b"}, {"x", "a\x7f"},
	{"x", " a"}, {"x", "a "}, {"x", "\ta"}, {"x", "a\t"}, {"x", " "}, {"baggage", "a=b\r\nx: y"},
	{":strange", "x"}, {":", "x"},
}

// harmlessFields may.
var harmlessFields = []string{
	"te", "trailers", "x", "", "x", "a b\tc", "x", "ä\xff", "x-!#$%&'*+-.^_`|~09", "y", "user-agent", "hyper",
	"baggage", "k8s.namespace.name=shop", "forwarded", `for="10.0.0.1:80"`, "traceparent", "00-1-2-01",
}

func TestMalformedRequestIsReset(t *testing.T) {
	l := newLink(t, nil)
	p := l.greetedClient()
	connect := []string{":method", "CONNECT", ":authority", p.authority()}
	with := func(more ...string) []string { return append(slices.Clip(connect), more...) }
	malformed := [][]string{
		{":method", "CONNECT", ":method", "CONNECT", ":authority", p.authority()},
		{":method", "CONNECT", "baggage", "x", ":authority", p.authority()},
		{":method", "CONNECT"},
		{":authority", p.authority()},
		{":method", "GET", ":authority", p.authority(), ":scheme", "https", ":path", "/", "connection", "close"},
		{":method", "CONNECT", ":authority", p.authority() + " "},
		with(":authority", p.authority()),
		with(":scheme", "https"), with(":path", "/"), with(":path", ""), with(":protocol", "websocket"),
		with(":scheme", "https", ":path", "/", ":protocol", "websocket"),
		with(":status", "200"),
		with("host", "10.0.0.9:80"), with("host", p.authority(), "host", p.authority()),
		with("content-length", "1"), with("content-length", ""), with("content-length", "-0"),
		with("content-length", "0", "content-length", "0"),
	}
	for _, f := range forbiddenFields {
		malformed = append(malformed, with(f[0], f[1]))
	}
	id := uint32(1)
	for _, pairs := range malformed {
		l.forgiveFaults()
		p.must(p.writeHeaders(id, false, pairs...))
		if f := p.until(isAnswer); !isReset(f, id, http2.ErrCodeProtocol) {
			t.Errorf("%q: %v", pairs, f)
		}
		id += 2
	}
	p.must(p.writeHeaders(id, false, with(append(harmlessFields, "host", p.authority(), "content-length", "0")...)...))
	if f := p.until(isAnswer); isReset(f, id, http2.ErrCodeProtocol) {
		t.Errorf("harmless fields: %v", f)
	}
}

func TestMalformedTrailersResetTheStream(t *testing.T) {
	l := newLink(t, nil)
	p := l.greetedClient()
	for i, pairs := range [][]string{{":method", "CONNECT"}, {":status", "200"}, {"connection", "close"}} {
		id := uint32(1 + 2*i)
		p.opened(id)
		p.must(p.writeHeaders(id, true, pairs...))
		p.wantReset(id, http2.ErrCodeProtocol)
	}
	p.opened(101)
	p.must(p.writeHeaders(101, true, "x-checksum", "1"))
	p.until(func(f http2.Frame) bool { // the echo ends as well
		return f.Header().StreamID == 101 && f.Header().Flags.Has(http2.FlagDataEndStream)
	})
}

func TestMalformedAnswerIsReset(t *testing.T) {
	malformed := [][]string{
		{}, {"x", "y"}, {":status", "200", ":status", "200"}, {"x", "y", ":status", "200"},
		{":status", "200", ":method", "CONNECT"}, {":status", "200", ":authority", "10.0.0.1:80"},
		{":status", "200", ":scheme", "https"}, {":status", "200", ":path", "/"}, {":status", "200", ":protocol", "h2c"},
		{":status", ""}, {":status", "20"}, {":status", "2000"}, {":status", "+20"}, {":status", "099"}, {":status", "101"},
	}
	for _, f := range forbiddenFields {
		malformed = append(malformed, []string{":status", "200", f[0], f[1]}, []string{":status", "503", f[0], f[1]})
	}
	answers := make(chan []string, 1)
	got := make(chan error, 1)
	l := greetedServer(t, func(p *rawPeer) {
		for pairs := range answers {
			f, err := p.find(is[*http2.MetaHeadersFrame])
			if err != nil {
				return
			}
			id := f.Header().StreamID
			p.must(p.writeHeaders(id, false, pairs...))
			if f := p.until(isAnswer); !isReset(f, id, http2.ErrCodeProtocol) {
				got <- fmt.Errorf("%q: %v", pairs, f)
				continue
			}
			got <- nil
		}
	})
	defer close(answers)
	for _, pairs := range malformed {
		for _, c := range l.pool.all() {
			c.forgiveFaults()
		}
		answers <- pairs
		s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
		if !errors.Is(err, ErrReset) {
			t.Errorf("%q: %v, want %v", pairs, err, ErrReset)
		}
		if s != nil {
			s.Reset()
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// A proxy that is no mesh's says more with its refusal than a status.
func TestAnswerMayBringABody(t *testing.T) {
	l := greetedServer(t, func(p *rawPeer) {
		f, err := p.find(is[*http2.MetaHeadersFrame])
		if err != nil {
			return
		}
		id := f.Header().StreamID
		p.must(p.writeHeaders(id, false, ":status", "503", "content-length", "9", "content-type", "text/plain", "server", "envoy"))
		p.must(p.WriteData(id, true, []byte("no health")))
		p.find(is[*http2.PingFrame])
	})
	_, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
	var status *StatusError
	if !errors.As(err, &status) || status.Code != 503 {
		t.Error(err)
	}
}

// forgiveFaults lets a test make more mistakes than a peer may.
func (l *link) forgiveFaults() {
	for _, c := range l.ln.all() {
		c.forgiveFaults()
	}
}

func (c *conn) forgiveFaults() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = rate.Left{}
}

// isAnswer matches what ends or answers a request.
func isAnswer(f http2.Frame) bool {
	return is[*http2.MetaHeadersFrame](f) || is[*http2.RSTStreamFrame](f) || is[*http2.GoAwayFrame](f)
}

func isReset(f http2.Frame, id uint32, why http2.ErrCode) bool {
	r, ok := f.(*http2.RSTStreamFrame)
	return ok && r.StreamID == id && r.ErrCode == why
}
