// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// RefuseFor has the kernel refuse the pod's connections to dst for a while: the
// app's connect() gives ECONNREFUSED, and ztunnel does not hear of it. It is for
// a destination that could not be reached a moment ago, so that an app which has
// another address tries that. Call it again to extend or, with 0, to end it.
//
// It is a favour to the app, not a guard: when there are too many, the kernel
// forgets the oldest, of any pod. Neither what the pod reaches as its own nor
// what is excluded is refused.
func (d *Datapath) RefuseFor(cookie netns.Cookie, dst netip.AddrPort, lasting time.Duration) error {
	key := meshPodEndpoint{Netns: uint64(cookie), Dst: wireEndpoint(dst)}
	if lasting <= 0 {
		return del(d.mesh.RefusedUntil, key)
	}
	until := monotonic() + uint64(lasting)
	err := put(d.mesh.RefusedUntil, &key, &until)
	if err == nil {
		err = d.refusing.until(until, d.mesh.RefusedLast)
	}
	if err != nil {
		return fmt.Errorf("refuse %v in netns %d: %w", dst, cookie, err)
	}
	return nil
}

// refusing is what the programs were told about how long they must look.
type refusing struct {
	mu   sync.Mutex
	last uint64
}

func (r *refusing) until(at uint64, last *ebpf.Variable) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at <= r.last {
		return nil
	}
	r.last = at
	return last.Set(at)
}

// ErrTooMany says that not all destinations fit into the kernel's map.
var ErrTooMany = errors.New("more destinations than the kernel's map holds")

// SetNobody has the kernel refuse the connections of all pods to these
// destinations, until the next call: those of which the registry knows that
// nobody is ready there. The app's connect() gives ECONNREFUSED. It replaces
// what an earlier call said. If not all fit, it takes as many as do and returns
// ErrTooMany: the others are for ztunnel to refuse.
//
// Calls must not overlap. Load begins with none.
func (d *Datapath) SetNobody(dsts []netip.AddrPort) error {
	want := make(map[meshEndpoint]bool, len(dsts))
	for _, dst := range dsts {
		want[wireEndpoint(dst)] = true
	}
	if err := d.mesh.NobodyKnown.Set(uint32(min(len(want), 1))); err != nil {
		return fmt.Errorf("set nobody_known: %w", err)
	}
	// The old go first, to make room; what stays is not written again.
	there := make(map[meshEndpoint]bool)
	err := sweep(d.mesh.Nobody, func(e meshEndpoint, _ *uint8) bool {
		there[e] = true
		return !want[e]
	})
	if err != nil {
		return err
	}
	for e := range want {
		if there[e] {
			continue
		}
		err := d.mesh.Nobody.Update(e, uint8(1), ebpf.UpdateAny)
		if errors.Is(err, unix.E2BIG) {
			return ErrTooMany
		}
		if err != nil {
			return fmt.Errorf("refuse %v: %w", netip.AddrPortFrom(goAddr(e.Addr), wirePort(e.Port)), err)
		}
	}
	return nil
}

// forgetNobody forgets what an earlier run knew, as the registry is yet to be
// read.
func (d *Datapath) forgetNobody() error { return d.SetNobody(nil) }

// staleAfter is how long a destination may wait to be taken: as long as any SYN
// is sent again.
const staleAfter = 130 * time.Second

// sweepPublished deletes destinations that nobody took: of connects that were
// refused, or that the app sent elsewhere by a routing header.
func (d *Datapath) sweepPublished() error {
	now := monotonic()
	return sweep(d.mesh.OriginalDst, func(_ meshFlow, p *meshPublished) bool {
		return p.Since < now && now-p.Since > uint64(staleAfter)
	})
}
