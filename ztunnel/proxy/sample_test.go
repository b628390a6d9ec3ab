// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, nil))
		take := func(r *record, word Word) (omitted uint64, ok bool) {
			k, sampled := r.kindOf(word, errBroken)
			if !sampled {
				t.Fatal("has a record always")
			}
			return s.take(k, log)
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
		if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), `"result":"dial","response_flags":"CONNECT","omitted":90,"src.addr":"10.0.0.1"`) {
			t.Errorf("%d lines: %s", n, out.String())
		}
	})
}

func TestWhatWasCarriedHasItsRecordAlways(t *testing.T) {
	r := recordOf(inbound, "10.0.0.1:1")
	if _, sampled := r.kindOf(OK, nil); sampled {
		t.Error("a success is sampled")
	}
	if _, sampled := r.kindOf(Reset, errBroken); !sampled {
		t.Error("a reset of a connection without bytes is not")
	}
	if _, sampled := r.kindOf(Drained, errBroken); sampled {
		t.Error("the end of an open connection is")
	}
	r.received = 1
	if _, sampled := r.kindOf(Reset, errBroken); sampled {
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
			if _, ok := s.take(kind{inbound, addr, TLS}, log); ok {
				written++
			}
		}
		if written != kindsMost+500 || len(s.runs) != kindsMost+1 {
			t.Errorf("%d records, %d peers remembered", written, len(s.runs))
		}
		time.Sleep(time.Minute)
		if s.take(kind{inbound, addr.Next(), TLS}, log); len(s.runs) != 1 {
			t.Errorf("%d peers are remembered after a minute", len(s.runs))
		}
	})
}
