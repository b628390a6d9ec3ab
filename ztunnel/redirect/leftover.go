// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf/link"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Leftover is a netns that is steered and that nobody in this process looks
// after. What runs there is refused.
type Leftover struct {
	Cookie netns.Cookie
	Inode  uint64 // 0: not known, as nothing is pinned for it
}

// fate is what the kernel says of a netns by the link that is pinned for it.
type fate int

const (
	unknown fate = iota // no link is pinned for it
	alive
	gone
)

// fate asks the kernel. A link does not hold its netns, and names its inode only
// while somebody does: a process, a mount, a socket. So a netns that we have open
// is alive.
func (p pins) fate(cookie netns.Cookie) (fate, uint64) {
	l, err := link.LoadPinnedLink(p.pod(cookie), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return unknown, 0
	}
	if err != nil {
		return alive, 0 // out of descriptors, say: it must not be let go for that
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil || info.NetNs() == nil {
		return alive, 0
	}
	if inode := info.NetNs().NetnsInode; inode != 0 {
		return alive, uint64(inode)
	}
	return gone, 0
}

// Gone reports whether the kernel says that a steered netns is gone, and whether
// it can say so: only while a link is pinned for it.
func (d *Datapath) Gone(cookie netns.Cookie) (yes, known bool) {
	f, _ := d.pins.fate(cookie)
	return f == gone, f != unknown
}

// LetBe forgets a sandbox and leaves its steering in the kernel: without
// listeners it is refused. It is for a sandbox that ended as others say, of
// which the kernel does not say so yet.
func (d *Datapath) LetBe(cookie netns.Cookie) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.pods[cookie]; ok {
		p.anchor.close()
		delete(d.pods, cookie)
	}
}

// Forget removes all that is kept of a netns that is gone.
func (d *Datapath) Forget(cookie netns.Cookie) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.forget(cookie); err != nil {
		return fmt.Errorf("forget netns %d: %w", cookie, err)
	}
	return nil
}

func (d *Datapath) forget(cookie netns.Cookie) error {
	return errors.Join(d.unsteerOutbound(cookie), d.unsteerInbound(cookie), del(d.mesh.Routed, uint64(cookie)))
}

// Reconcile removes what earlier runs left of netns that the kernel says are
// gone, and returns those that it does not say that of, and that are neither
// known nor steered by this run. They stay steered: whose they are will be found
// out, or they end.
func (d *Datapath) Reconcile(known []netns.Cookie) (left []Leftover, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pinned, err := d.pins.adopted()
	if err != nil {
		return nil, err
	}
	ours := func(c netns.Cookie) bool {
		_, ok := d.pods[c]
		return ok || slices.Contains(known, c)
	}
	var problems []error
	for _, cookie := range pinned {
		if ours(cookie) {
			continue
		}
		f, inode := d.pins.fate(cookie)
		if f == alive {
			left = append(left, Leftover{cookie, inode})
			continue
		}
		problems = append(problems, d.forget(cookie))
	}
	stray, err := d.unpinned(func(c netns.Cookie) bool { return ours(c) || slices.Contains(pinned, c) })
	return append(left, stray...), errors.Join(append(problems, err)...)
}

// unpinned finds netns whose outbound connections are steered without a link
// for the inbound ones: another hand removed its pin while no ztunnel was here.
// Nothing says any more whether they are gone; entries of one that is do no harm.
func (d *Datapath) unpinned(explained func(netns.Cookie) bool) (left []Leftover, err error) {
	var cookie uint64
	var entry meshPod
	entries := d.mesh.Pods.Iterate()
	for entries.Next(&cookie, &entry) {
		if c := netns.Cookie(cookie); !explained(c) {
			left = append(left, Leftover{Cookie: c})
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("walk %v: %w", d.mesh.Pods, err)
	}
	return left, nil
}
