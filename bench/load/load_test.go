// SPDX-License-Identifier: Apache-2.0

package load

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// serving starts a server on loopback, at any port.
func serving(t *testing.T) (*server, netip.AddrPort) {
	t.Helper()
	ln, err := listen(0)
	if err != nil {
		t.Fatal(err)
	}
	// A blocked accept() does not end by close().
	t.Cleanup(func() {
		_ = unix.Shutdown(int(ln), unix.SHUT_RDWR)
		ln.close()
	})
	name, err := unix.Getsockname(int(ln))
	if err != nil {
		t.Fatal(err)
	}
	s := new(server)
	go s.serve(ln)
	return s, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
}

func TestEveryOrderIsDone(t *testing.T) {
	s, to := serving(t)
	w := new(worker)
	const short = 500 * time.Millisecond
	for _, o := range []Order{
		{Kind: Bulk, Streams: 3}, {Kind: Bulk, Streams: 3, Reverse: true},
		{Kind: RTT}, {Kind: RTT, Streams: 4, Size: 1024, Behind: 1}, {Kind: RTT, Streams: 4, Rate: 1000},
		{Kind: Open, Streams: 2}, {Kind: First, Size: 128 << 10}, {Kind: Open, Streams: 2, Rate: 200},
		{Kind: Prove, Size: 1 << 20}, {Kind: Prove, Size: 1 << 20, Whole: true}, {Kind: Hold, Streams: 5}, {Kind: Release},
	} {
		o.To, o.Duration = to, short
		a, err := w.do(o.complete())
		if err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		if o.Kind != Release && a.Bytes == 0 && a.Count == 0 {
			t.Errorf("%+v: nothing was measured", o)
		}
	}
	s.release()
}

func TestBulkCountsWhatArrived(t *testing.T) {
	_, to := serving(t)
	a, err := bulk(Order{To: to, Streams: 2, Duration: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.PerStream) != 2 || a.PerStream[0]+a.PerStream[1] != a.Bytes || a.Bytes == 0 {
		t.Errorf("%+v", a)
	}
}

func TestHarmIsDoneByTheClock(t *testing.T) {
	for rate, want := range map[float64]int{32: 64, 2000: 4000, 0: 0} {
		synctest.Test(t, func(t *testing.T) {
			p := pace{o: Order{Rate: rate, Duration: 2 * time.Second}, start: time.Now()}
			time.Sleep(time.Second) // what was late is made up for
			turns := 0
			for ; p.next(); turns++ {
				if rate == 0 {
					if time.Since(p.start) != time.Second {
						t.Fatal("without a rate it waits")
					}
					return
				}
			}
			if turns != want || time.Since(p.start) != 2*time.Second {
				t.Errorf("%d turns in %v at %v a second, want %d", turns, time.Since(p.start), rate, want)
			}
		})
	}
}

func TestQuantilesAreSamples(t *testing.T) {
	q := quantiles([]int64{30, 10, 20})
	a := Answer{Quantiles: q}
	for at, want := range map[float64]float64{0: 10, 0.5: 20, 1: 30} {
		if got := a.Quantile(at); got != want {
			t.Errorf("quantile %v = %v, want %v", at, got, want)
		}
	}
	if got := (Answer{}).Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
