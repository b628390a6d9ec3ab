// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// takeOver adopts the sandboxes that an earlier ztunnel of this boot recorded
// and removes what it left in the kernel for sandboxes that are gone. Before,
// it looks for pods without a record, which may have been lost: they would be
// released.
func (p *Pods) takeOver() error {
	found, problems := p.files.load(p.boot)
	if problems != nil {
		p.Log.Warn("reading sandbox records", "error", problems)
	}
	for _, s := range found {
		s, err := p.locate(s, sameCookie)
		if err == nil {
			p.remember(s)
			continue
		}
		p.Log.Info("sandbox is gone", "pod", s.String(), "reason", err)
		if err := p.files.remove(s.ContainerID); err != nil {
			p.Log.Warn("removing the record of a sandbox", "error", err)
		}
	}
	p.discover()
	var live []netns.Cookie
	for _, pod := range p.all() {
		live = append(live, pod.Cookie)
	}
	if err := p.Datapath.Reconcile(live); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
}

// remember has the sandbox looked after from now on.
func (p *Pods) remember(s sandbox) {
	life, end := context.WithCancel(p.base)
	inbound, outbound := p.Datapath.Steered(s.Cookie)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byContainer[s.ContainerID] = &pod{sandbox: s, life: life, end: end, path: s.Netns, adopted: inbound || outbound}
}

// letGo ends the steering that an earlier run began, of a pod whose label went
// while no ztunnel was here; pod.mu is held.
func (p *Pods) letGo(pod *pod) error {
	err := errors.Join(p.Datapath.UnsteerOutbound(pod.Cookie), p.Datapath.UnsteerInbound(pod.Cookie))
	if err != nil {
		return err
	}
	pod.adopted = false
	p.Log.Info("pod unenrolled, after an earlier run", "pod", pod.String())
	return nil
}

// stillThere reports why the netns of pod is gone; nil if it is not. If only
// the way that leads there has changed, it writes that down.
func (p *Pods) stillThere(pod *pod) error {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	s := pod.sandbox
	s.Netns = pod.path
	s, err := p.locate(s, sameNetns)
	if err != nil || s.Netns == pod.path || pod.gone {
		return err
	}
	pod.path = s.Netns
	if err := p.files.write(s); err != nil {
		p.Log.Warn("recording sandbox", "pod", pod.String(), "error", err)
	}
	return nil
}

// locate returns s if its netns is still the same. A sandbox that was found
// through a process outlives it: then another of its processes leads there.
func (p *Pods) locate(s sandbox, same func(sandbox) error) (sandbox, error) {
	gone := same(s)
	if gone == nil || !isScanned(s) {
		return s, gone
	}
	again, err := p.findSandbox(s)
	if err != nil || again.Cookie != s.Cookie {
		return s, gone
	}
	return again, nil
}

// sameNetns reports why s's netns is not the one that was recorded. The path
// is looked at only: opening it would keep a dying netns alive. If it cannot be
// looked at, nobody knows: a pod is not released for that.
func sameNetns(s sandbox) error {
	info, err := os.Stat(s.Netns)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ESRCH):
		return err
	case err == nil && info.Sys().(*syscall.Stat_t).Ino != s.Inode:
		return fmt.Errorf("%s is another netns now", s.Netns)
	}
	return nil
}

// sameCookie is sameNetns for a netns that nobody held open since: inodes are
// reused, cookies are not.
func sameCookie(s sandbox) error {
	if err := sameNetns(s); err != nil {
		return err
	}
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return nil // out of descriptors, say: nobody knows
	}
	defer ns.Close()
	if ns.Cookie() != s.Cookie {
		return fmt.Errorf("%s is another netns now", s.Netns)
	}
	return nil
}
