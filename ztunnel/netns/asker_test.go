// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// asking calls f with an Asker of the namespace.
func asking(t *testing.T, ns *NS, until time.Time, f func(*Asker) error) error {
	t.Helper()
	return ns.Do(func() error {
		a, err := NewAsker(unix.NETLINK_ROUTE, until)
		if err != nil {
			return err
		}
		defer a.Close()
		return f(a)
	})
}

func TestATableThatChangesWhileItIsReadIsReadThreeTimes(t *testing.T) {
	const devices = 64 // more than the kernel says in one datagram
	for changing, want := range map[int]int{0: 1, 1: 2, 2: 3, 3: 3, 99: 3} {
		ns := open(t)
		inside(t, ns, func() error { return addPairs(0, devices) })
		added, reads := devices, 0
		var steady bool
		err := asking(t, ns, time.Now().Add(10*time.Second), func(a *Asker) (err error) {
			steady, err = a.Steadily(func() error {
				reads++
				first := true
				return a.Dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func([]byte) error {
					if !first || reads > changing {
						return nil
					}
					first = false
					added++
					return addPairs(added-1, added)
				})
			})
			return err
		})
		if err != nil || reads != want || steady != (changing < 3) {
			t.Errorf("a table that changes in %d reads: read %d times, steady %v, %v; want %d times", changing, reads, steady, err, want)
		}
	}
}

func addPairs(from, to int) error {
	for i := from; i < to; i++ {
		name := fmt.Sprint("veth", i)
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}); err != nil {
			return err
		}
	}
	return nil
}

func TestATableIsNotReadBeyondTheDeadline(t *testing.T) {
	err := asking(t, open(t), time.Now(), func(a *Asker) error {
		return a.Addrs(func(DeviceAddr) error { return nil })
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want %v", err, os.ErrDeadlineExceeded)
	}
}

// A node looks at all its pods every two seconds, so what a look leaves for the collector
// is what an idle node collects.
func TestToAskForATableLeavesLittleGarbage(t *testing.T) {
	ns := open(t)
	const times = 50
	var before, after runtime.MemStats
	err := asking(t, ns, time.Now().Add(10*time.Second), func(a *Asker) error {
		ask := func() error { return a.Addrs(func(DeviceAddr) error { return nil }) }
		if err := ask(); err != nil {
			return err
		}
		runtime.ReadMemStats(&before)
		for range times {
			if err := ask(); err != nil {
				return err
			}
		}
		runtime.ReadMemStats(&after)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The race detector has a sync.Pool drop some of what it is given.
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 40<<10 {
		t.Errorf("%d bytes each time", each)
	} else {
		t.Logf("%d bytes each time", each)
	}
}
