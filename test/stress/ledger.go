// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// ledger keeps the access records of both nodes, by the talk that they are of.
type ledger struct {
	mu      sync.Mutex
	records map[netip.AddrPort][]record
	none    []record // of no talk
	omitted uint64   // failures alike, of which only samples are recorded
}

// record is what a line of the access log says.
type record struct {
	node, direction, result, why string
	beside                       bool // a tunnel
	sent, received               uint64
	at                           time.Time
}

func (r record) String() string {
	return fmt.Sprintf("%s %s at %s: %s, sent %d, received %d, %s", r.node, r.direction, stamp(r.at), r.result, r.sent, r.received, r.why)
}

func newLedger() *ledger { return &ledger{records: make(map[netip.AddrPort][]record)} }

// scribe is the log handler of one node.
type scribe struct {
	ledger *ledger
	node   string
}

func (l *ledger) of(node string) slog.Handler { return scribe{l, node} }

// Enabled is for access records only.
func (s scribe) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// WithAttrs is not used by the writer of access records.
func (s scribe) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup is neither.
func (s scribe) WithGroup(string) slog.Handler { return s }

// Handle keeps an access record.
func (s scribe) Handle(_ context.Context, line slog.Record) error {
	r := record{node: s.node, at: line.Time}
	var dst, target netip.AddrPort
	var omitted uint64
	var read func(slog.Attr) bool
	read = func(a slog.Attr) bool {
		switch a.Key {
		case "":
			for _, a := range a.Value.Group() {
				read(a)
			}
		case "direction":
			r.direction = a.Value.String()
		case "path":
			r.beside = a.Value.String() == "local"
		case "result":
			r.result = a.Value.String()
		case "error":
			r.why = a.Value.String()
		case "bytes_sent":
			r.sent = a.Value.Uint64()
		case "bytes_recv":
			r.received = a.Value.Uint64()
		case "omitted":
			omitted = a.Value.Uint64()
		case "dst.addr":
			dst, _ = netip.ParseAddrPort(a.Value.String())
		case "dst.hbone_addr":
			target, _ = netip.ParseAddrPort(a.Value.String())
		}
		return true
	}
	line.Attrs(read)
	s.ledger.omit(omitted)
	if r.result == "" {
		return nil
	}
	if !target.IsValid() {
		target = dst // a tunnel was not reached
	}
	s.ledger.keep(target, r)
	return nil
}

func (l *ledger) keep(of netip.AddrPort, r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !of.IsValid() || strings.HasSuffix(of.String(), ":15008") {
		l.none = append(l.none, r)
		return
	}
	l.records[of] = append(l.records[of], r)
}

func (l *ledger) omit(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.omitted += n
}

// all is the records of a talk.
func (l *ledger) all(of netip.AddrPort) []record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[of]
}

// forget makes room for the next talk of that number.
func (l *ledger) forget(of netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.records, of)
}
