// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var errBroken = errors.New("broken")

func recordOf(d direction, far string) *record {
	r := &record{direction: d}
	*map[direction]*netip.AddrPort{inbound: &r.src.addr, outbound: &r.dst.addr}[d] = netip.MustParseAddrPort(far)
	return r
}

func TestFailuresAlikeAreSampledAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s samples
		s.name(&workload.Workload{Namespace: "shop", Name: "db-0"})
		s.name(nil) // the registry has forgotten it
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, nil))
		take := func(r *record, word Word) (omitted uint64, ok bool) {
			k, sampled := r.kindOf(&outcome{word: word, err: errBroken})
			if !sampled {
				t.Fatal("has a record always")
			}
			return s.take(k, nil, log)
		}
		fail := func(far string, n int) (written int) {
			for range n {
				if _, ok := take(recordOf(inbound, far), Dial); ok {
					written++
				}
			}
			return written
		}
		if n := fail("10.0.0.1:1", 900); n != 500 {
			t.Errorf("%d of 900 failures have records", n)
		}
		for _, other := range []*record{recordOf(inbound, "10.0.0.2:1"), recordOf(outbound, "10.0.0.1:1")} {
			if _, ok := take(other, Dial); !ok {
				t.Errorf("another peer or direction has no record: %+v", other)
			}
		}
		if _, ok := take(recordOf(inbound, "10.0.0.1:9"), Denied); !ok {
			t.Error("another reason has no record")
		}
		time.Sleep(time.Second)
		if omitted, ok := take(recordOf(inbound, "10.0.0.1:7"), Dial); !ok || omitted != 400 {
			t.Errorf("the next record tells of %d, %v; want 400", omitted, ok)
		}
		fail("10.0.0.1:1", 109)
		time.Sleep(tellAfter + time.Second)
		synctest.Wait()
		if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), `"scope":"access","direction":"inbound","result":"dial","response_flags":"CONNECT","omitted":90,"src.addr":"10.0.0.1","dst.workload":"db-0","dst.namespace":"shop"}`) {
			t.Errorf("%d lines: %s", n, out.String())
		}
	})
}

func TestWhatWasCarriedHasItsRecordAlways(t *testing.T) {
	r := recordOf(inbound, "10.0.0.1:1")
	if _, sampled := r.kindOf(&outcome{word: OK}); sampled {
		t.Error("a success is sampled")
	}
	if _, sampled := r.kindOf(&outcome{word: Reset, err: errBroken}); !sampled {
		t.Error("a reset of a connection without bytes is not")
	}
	if _, sampled := r.kindOf(&outcome{word: Drained, err: errBroken}); sampled {
		t.Error("the end of an open connection is")
	}
	if _, sampled := r.kindOf(&outcome{word: Reset, err: errBroken, received: 1}); sampled {
		t.Error("a reset of a connection with bytes is")
	}
}

func TestPeersWithoutEndShareTheirSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s samples
		log := slog.New(slog.DiscardHandler)
		written := 0
		addr := netip.MustParseAddr("10.0.0.0")
		for range 10 * kindsMost {
			addr = addr.Next()
			if _, ok := s.take(kind{inbound, addr, TLS}, nil, log); ok {
				written++
			}
		}
		if written != kindsMost+500 || len(s.runs) != kindsMost+1 {
			t.Errorf("%d records, %d peers remembered", written, len(s.runs))
		}
		time.Sleep(time.Minute)
		if s.take(kind{inbound, addr.Next(), TLS}, nil, log); len(s.runs) != 1 {
			t.Errorf("%d peers are remembered after a minute", len(s.runs))
		}
	})
}

// A thousand addresses, each of which fails seldom enough for records of its own.
func TestAFloodOfManyPeersLeavesOtherPodsTheirRecordsAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all recordLimit
		var flooded, quiet samples
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, nil))
		const failures = 100000
		written := uint64(0)
		for i := range failures {
			if i%(failures/10) == 0 {
				time.Sleep(time.Second)
			}
			if omitted, ok := flooded.take(kind{inbound, netip.AddrFrom4([4]byte{10, 0, byte(i % 1000 >> 8), byte(i)}), TLS}, &all, log); ok {
				written += 1 + omitted
			}
		}
		if written < 2500 || written > 3500 {
			t.Errorf("%d records, want a burst of 2,000, and 100 a second", written)
		}
		if _, ok := quiet.take(kind{inbound, caller.addr, TLS}, &all, log); !ok {
			t.Error("another pod has no record")
		}
		time.Sleep(3 * tellAfter)
		synctest.Wait()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for _, line := range lines {
			var told struct{ Omitted uint64 }
			if err := json.Unmarshal([]byte(line), &told); err != nil {
				t.Fatal(err)
			}
			written += told.Omitted
		}
		if written != failures || len(lines) > 3 {
			t.Errorf("%d of %d are accounted for, in %d lines", written, failures, len(lines))
		}
	})
}

func TestPodsTogetherHaveABoundOfRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all recordLimit
		log := slog.New(slog.DiscardHandler)
		written := 0
		for pod := range 20 {
			var s samples
			for i := range 1000 {
				if _, ok := s.take(kind{inbound, netip.AddrFrom4([4]byte{10, byte(pod), byte(i >> 8), byte(i)}), TLS}, &all, log); ok {
					written++
				}
			}
		}
		if written != int(recordRateOfAll.Burst) {
			t.Errorf("%d records of 20,000 failures, want %v", written, recordRateOfAll.Burst)
		}
		time.Sleep(time.Minute)
	})
}
