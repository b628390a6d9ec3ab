// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// sayAtMost is how many netns that nothing explains are named at once.
const sayAtMost = 16

// takeOver adopts the sandboxes that an earlier ztunnel of this boot recorded,
// looks for pods whose record may have been lost, and removes what it left in the
// kernel of netns that are gone. It lets nobody go: a netns that is steered and
// that no record explains stays so.
func (p *Pods) takeOver() error {
	found, problems := p.files.load(p.boot)
	if problems != nil {
		p.Log.Error("reading sandbox records", logError, problems)
	}
	running := processes()
	for _, s := range found {
		path, err := locate(s, s.Netns, sameCookie, running)
		inbound, outbound := p.Datapath.Steered(s.Cookie)
		if dead, _ := p.Datapath.Gone(s.Cookie); dead || err != nil && !inbound && !outbound {
			p.Log.Info("sandbox is gone", logPod, s.String(), logReason, err)
			if err := p.files.remove(s.Cookie); err != nil {
				p.Log.Warn("removing the record of a sandbox", logError, err)
			}
			continue
		}
		p.remember(s, path)
	}
	p.discover()
	if err := p.reconcileKernel(); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
}

// reconcileKernel removes the steering of netns that are gone, and notes those
// that live and that nothing here explains.
func (p *Pods) reconcileKernel() error {
	var known []netns.Cookie
	for _, pod := range p.all() {
		known = append(known, pod.sandbox().Cookie)
	}
	left, err := p.Datapath.Reconcile(known)
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(l redirect.Leftover) bool {
		_, ok := p.byCookie(l.Cookie) // recorded meanwhile
		return ok
	})
	p.mu.Lock()
	before := p.unexplained
	p.unexplained = left
	p.mu.Unlock()
	said := 0
	for _, l := range left {
		if slices.Contains(before, l) {
			continue
		}
		if said++; said > sayAtMost {
			p.Log.Error("more netns are steered and not explained: see /config_dump", logNetns, len(left))
			break
		}
		p.Log.Error("a netns is steered and no record says whose it is: it is refused until a process of its pod is found or it ends",
			logCookie, l.Cookie, logInode, l.Inode)
	}
	return nil
}

// leftovers are the netns that are steered and that nothing explains.
func (p *Pods) leftovers() []redirect.Leftover {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unexplained
}

// pruneOwn looks at the addresses of recorded sandboxes before anything else is
// known: until a pod is enrolled again, which may take as long as the registry
// does, it reaches unsteered what an earlier run knew as its own.
func (p *Pods) pruneOwn() {
	found, _ := p.files.load(p.boot) // takeOver says what is wrong with the others
	for _, s := range found {
		if err := p.pruneOwnOf(s); err != nil {
			p.Log.Warn("looking at the addresses of a pod", logPod, s.String(), logError, err)
		}
	}
}

func (p *Pods) pruneOwnOf(s sandbox) error {
	ns, err := netns.Open(s.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if ns.Cookie() != s.Cookie {
		return nil // takeOver finds out
	}
	held, tentative, err := ns.Addrs()
	if err != nil {
		return err
	}
	return p.Datapath.PruneOwnIPs(s.Cookie, append(held, tentative...))
}

// remember adds a sandbox, whose netns is found at path, to those that are looked after.
func (p *Pods) remember(s sandbox, path string) *pod {
	inbound, outbound := p.Datapath.Steered(s.Cookie)
	pod := &pod{path: path, standing: standing{adopted: inbound || outbound, lost: path == ""}}
	pod.known.Store(&s)
	pod.show()
	pod.life, pod.end = context.WithCancel(p.base)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byNetns[s.Cookie] = pod
	return pod
}

// letGo ends the steering that an earlier run began, of a pod whose label went
// while no ztunnel was here; pod.mu is held.
func (p *Pods) letGo(pod *pod) error {
	cookie := pod.sandbox().Cookie
	if err := errors.Join(p.Datapath.UnsteerOutbound(cookie), p.Datapath.UnsteerInbound(cookie)); err != nil {
		return err
	}
	pod.adopted = false
	p.Log.Info("pod unenrolled, after an earlier run", logPod, pod.String())
	if err := p.unrouteLeft(pod); err != nil {
		p.Log.Warn("removing what an earlier run set in a pod's netns", logPod, pod.String(), logError, err)
	}
	return nil
}

// watch finds out what became of pod's netns since it was last looked at.
//
// A pod outside the mesh is forgotten when no process and no mount leads to it
// any more. Of one that is steered only the kernel's word counts, which it cannot
// give while we hold the netns: so the connections are cut and the netns is let
// go of, and what might still run there stays steered, and so refused, until the
// kernel says that it is gone. If it turns up again, it is enrolled again.
func (p *Pods) watch(pod *pod, running func() []process) (problems error) {
	defer pod.lock()()
	if pod.gone {
		return nil
	}
	s := pod.sandbox()
	gone, known := p.Datapath.Gone(s.Cookie)
	steered := pod.member != nil || pod.adopted
	if s.deleted() && known && !gone {
		return nil
	}
	path, err := whereIs(pod, s, running)
	if !s.deleted() && err == nil {
		return p.found(pod, path)
	}
	if steered && !s.deleted() && !pod.lost {
		p.Log.Warn("nothing leads to the netns of a pod any more: its connections are cut", logPod, pod.String(), logReason, err)
		pod.lost = true
		problems = p.cut(pod)
	}
	if !known {
		gone = err != nil
	}
	if steered && !gone {
		return problems
	}
	p.Log.Info("sandbox is gone", logPod, pod.String(), logReason, err)
	return errors.Join(problems, p.forget(pod))
}

// whereIs is locate for a pod; of one whose path is good it looks at no process.
// pod.mu is held.
func whereIs(pod *pod, s sandbox, running func() []process) (path string, err error) {
	if pod.path != "" && sameNetns(pod.path, s) == nil {
		return pod.path, nil
	}
	return locate(s, pod.path, sameNetns, running())
}

// found notes the way that leads to the netns now; pod.mu is held.
func (p *Pods) found(pod *pod, path string) error {
	if pod.lost {
		p.Log.Info("found the netns of a pod again", logPod, pod.String(), logNetns, path)
		pod.lost = false
	}
	if path == pod.path {
		return nil
	}
	pod.path = path
	s := pod.sandbox()
	s.Netns = path
	if err := p.store(pod, s); err != nil {
		return fmt.Errorf("recording where its netns is: %w", err)
	}
	return nil
}

// locate returns a path that leads to s's netns: the one that was good last,
// another of its processes, or a mount.
func locate(s sandbox, path string, same func(path string, s sandbox) error, running []process) (string, error) {
	gone := errors.New("its netns was not found before")
	if path != "" {
		if gone = same(path, s); gone == nil {
			return path, nil
		}
	}
	if path, ok := holder(s.Inode, s.Cookie, running); ok {
		return path, nil
	}
	return "", gone
}

// sameNetns reports why path does not lead to s's netns. The path is looked at
// only: opening it would keep a dying netns alive. If it cannot be looked at,
// nobody knows: a pod is not released for that.
func sameNetns(path string, s sandbox) error {
	ino, err := inode(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ESRCH):
		return err
	case err == nil && ino != s.Inode:
		return fmt.Errorf("%s is another netns now, or none", path)
	}
	return nil
}

// sameCookie is sameNetns for a netns that nobody held open since: inodes are
// reused, cookies are not.
func sameCookie(path string, s sandbox) error {
	if err := sameNetns(path, s); err != nil {
		return err
	}
	ns, err := netns.Open(path)
	if err != nil {
		return nil // out of descriptors, say: nobody knows
	}
	defer ns.Close()
	if ns.Cookie() != s.Cookie {
		return fmt.Errorf("%s is another netns now", path)
	}
	return nil
}
