// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// newEcho is a pod whose app sends back what it gets, and where it is reached in plaintext.
func newEcho(t *testing.T, change func(*Pod)) (*bench, netip.AddrPort) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	inner := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
	change(b.Pod)
	return b, b.serve(dbAddr, Passthrough{b.Pod}.Serve)
}

func TestOpenConnectionsHaveRecords(t *testing.T) {
	b, to := newEcho(t, func(p *Pod) { p.GoodOneOf = 1000 })
	b.Pod.goods.Add(1) // the first is another's
	client := greet(t, legacyAddr, to)
	if n := b.Alive(time.Hour, 10); n != 0 {
		t.Errorf("%d connections of a moment have records", n)
	}
	var record map[string]any
	for limit := time.Now().Add(patience); ; { // the tally may be behind the app
		if n := b.Alive(0, 10); n != 1 {
			t.Fatalf("%d records", n)
		}
		if record = <-b.records; record["bytes_sent"] == 5.0 && record["bytes_recv"] == 5.0 || time.Now().After(limit) {
			break
		}
	}
	has(t, record, map[string]any{
		"msg": "connection alive", "level": "INFO", "scope": "access", "direction": "inbound", "path": "passthrough",
		"bytes_sent": 5.0, "bytes_recv": 5.0, "result": nil, "dst.workload": "db-0",
	})
	client.CloseWrite()
	expectEOF(t, client)
	// What had a record while it was open has one at its end, whatever the sample.
	has(t, b.record(OK), map[string]any{"sampled": nil, "bytes_sent": 5.0})
	if n := b.Alive(0, 10); n != 0 {
		t.Errorf("%d connections that have ended are alive", n)
	}
}

// The oldest of too many have records, and of the others there is a number.
func TestTooManyOpenConnectionsAreCounted(t *testing.T) {
	b, to := newEcho(t, func(*Pod) {})
	first := greet(t, legacyAddr, to)
	for range 3 {
		greet(t, legacyAddr, to)
	}
	if n := b.Alive(0, 1); n != 1 {
		t.Errorf("%d records", n)
	}
	has(t, <-b.records, map[string]any{"src.addr": first.LocalAddr().String()})
	has(t, <-b.records, map[string]any{"msg": "connections are alive without a record", "level": "WARN", "omitted": 3.0})
}

func TestOneOfManyGoodEndsHasARecord(t *testing.T) {
	b, to := newEcho(t, func(p *Pod) { p.GoodOneOf = 3 })
	for range 7 {
		client := greet(t, legacyAddr, to)
		client.CloseWrite()
		expectEOF(t, client)
	}
	for range 3 {
		has(t, b.record(OK), map[string]any{"sampled": 3.0})
	}
	b.policy.Replace(strict()) // refusals are not among them
	for range 4 {
		expectRefused(t, legacyAddr, to)
		has(t, b.record(Denied), map[string]any{"sampled": nil})
	}
}
