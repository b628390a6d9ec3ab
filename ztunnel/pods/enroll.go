// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// awaitPod is how long an ADD waits for its pod to appear in the registry. The
// kubelet knew the pod before the runtime did, and our source may be late.
const awaitPod = 2 * time.Second

const (
	maxSandboxes = 8192 // recorded on this node: as many as two nodes have pods
	maxNetworks  = 32   // of one sandbox
)

// Add answers a CNI ADD: it records the sandbox, enrolls it if its pod's
// labels say so, and returns only when the kernel steers it. Whether, and as
// whom, is the registry's word; the request only says where.
func (p *Pods) Add(ctx context.Context, req enroll.Request) (enroll.Reply, error) {
	block := func(format string, args ...any) (enroll.Reply, error) {
		reason := fmt.Sprintf(format, args...)
		p.Log.Warn("pod may not start", logPod, req.PodNamespace+"/"+req.PodName, logReason, reason)
		return enroll.Reply{Verdict: enroll.Block, Reason: reason}, nil
	}
	if err := p.ready(ctx); err != nil {
		return block("ztunnel on %s is still starting: %v", p.Node, err)
	}
	w, known := p.await(ctx, req)
	if !known || w.Undecided {
		// As the plugin decides when nobody answers.
		meshed, found := namespacesOf(p.Registry.All())[req.PodNamespace]
		if !found || known {
			return block("namespace %s is not known on node %s yet", req.PodNamespace, p.Node)
		}
		if meshed {
			return block("pod %s/%s (UID %s) is not known on node %s yet, and its namespace is in the mesh",
				req.PodNamespace, req.PodName, req.PodUID, p.Node)
		}
	}
	if known && w.Meshed && w.Node != p.Node {
		// Not "none of ours": it would start unprotected.
		p.setStray(w)
		return block("pod %v is placed on node %q, and this ztunnel serves node %q", w, w.Node, p.Node)
	}
	pod, err := p.claimed(req, w.UID)
	if err != nil {
		if known && p.wanted(w) {
			return block("%v", err)
		}
		// Outside the mesh nothing depends on us: the pod may start, and
		// is not remembered.
		p.Log.Warn("sandbox is not recorded", logPod, req.PodNamespace+"/"+req.PodName, logError, err)
		return enroll.Reply{Verdict: enroll.Ignore}, nil
	}
	if known && w.Unsteerable != "" {
		p.Log.Warn("pod is not in the mesh although its labels say so", logPod, w.String(), logReason, w.Unsteerable)
	}
	if !known || !p.wanted(w) {
		return enroll.Reply{Verdict: enroll.Ignore}, nil
	}
	if err := p.converge(ctx, pod); err != nil {
		return block("%v", err)
	}
	if enrolled, _ := pod.enrolled(); !enrolled {
		return block("pod %v left the mesh or was deleted meanwhile", pod)
	}
	return enroll.Reply{Verdict: enroll.Enrolled}, nil
}

// Del takes the sandbox off a network; off the last one, it ends.
func (p *Pods) Del(ctx context.Context, req enroll.Request) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	var problems error
	for _, pod := range p.all() {
		if isOf(req, pod.sandbox()) {
			problems = errors.Join(problems, p.takeOff(pod, func(n network) bool {
				return isScanned(pod.sandbox()) || n.is(req.Network, req.IfName)
			}))
		}
	}
	return problems
}

// isOf reports whether a DEL is for that sandbox. One that was found has no
// container ID, and its pod may have had another before, which runtimes delete
// more than once: then the netns tells. Nor is it known which network it is on,
// and the DEL of another names other addresses.
func isOf(req enroll.Request, s sandbox) bool {
	switch {
	case s.ContainerID == req.ContainerID:
		return true
	case s.ContainerID != scanned+req.PodUID, len(req.IPs) > 0 && !slices.ContainsFunc(s.ips(), func(ip netip.Addr) bool { return slices.Contains(req.IPs, ip) }):
		return false
	}
	return req.Netns == "" || sameNetns(req.Netns, s) == nil
}

// takeOff takes a sandbox off the networks that gone names. Off the last one, its
// connections are cut, for its veth is going. It stays steered until its netns
// is gone, too: what might still run there is not let out.
func (p *Pods) takeOff(pod *pod, gone func(network) bool) error {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	before := pod.sandbox()
	s := before.without(gone)
	if pod.gone || len(s.Networks) == len(before.Networks) {
		return nil
	}
	if !s.deleted() {
		p.Log.Info("sandbox was taken off a network", logPod, pod.String(), logNetworks, len(s.Networks))
		return p.store(pod, s)
	}
	p.Log.Info("sandbox deleted", logPod, pod.String())
	if pod.member == nil && !pod.adopted {
		return p.forget(pod)
	}
	return errors.Join(p.cut(pod), p.store(pod, s))
}

// Check confirms against the kernel that the sandbox is as its labels say.
func (p *Pods) Check(ctx context.Context, req enroll.Request) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	pod, ok := p.byID(req.ContainerID)
	if !ok { // of one that was found neither container nor network is known
		pod, ok = p.byID(scanned + req.PodUID)
		ok = ok && sameNetns(req.Netns, pod.sandbox()) == nil
	}
	if !ok {
		return fmt.Errorf("sandbox %s of pod %s/%s is not known to ztunnel", req.ContainerID, req.PodNamespace, req.PodName)
	}
	s := pod.sandbox()
	if !isScanned(s) && !slices.ContainsFunc(s.Networks, func(n network) bool { return n.is(req.Network, req.IfName) }) {
		return fmt.Errorf("pod %v: ztunnel does not know that its sandbox is on network %s by %s", pod, req.Network, req.IfName)
	}
	w, known := p.workload(s)
	if !known || !p.wanted(w) {
		return nil
	}
	if ok, why := pod.enrolled(); !ok {
		return fmt.Errorf("pod %v belongs in the mesh and is not enrolled: %s", pod, why)
	}
	return p.repair(ctx)
}

// GC takes every sandbox off the network whose attachment the runtime does not
// list.
func (p *Pods) GC(ctx context.Context, name string, valid []enroll.Attachment) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	var problems error
	for _, pod := range p.all() {
		id := pod.sandbox().ContainerID
		problems = errors.Join(problems, p.takeOff(pod, func(n network) bool {
			return n.Name == name && !slices.ContainsFunc(valid, func(a enroll.Attachment) bool {
				return a.ContainerID == id && n.is(name, a.IfName)
			})
		}))
	}
	return problems
}

// ready waits until the records of an earlier run are taken over.
func (p *Pods) ready(ctx context.Context) error {
	select {
	case <-p.loaded:
		return nil
	case <-ctx.Done():
		return errors.New("workloads are not known yet")
	}
}

// await returns the pod of the request, by UID where the runtime passes one,
// or gives up after a while.
func (p *Pods) await(ctx context.Context, req enroll.Request) (workload.Workload, bool) {
	ctx, cancel := context.WithTimeout(ctx, awaitPod)
	defer cancel()
	for {
		changed := p.Registry.Changed()
		w, ok := p.find(req)
		if ok && !w.Undecided {
			return w, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return w, ok
		}
	}
}

func (p *Pods) find(req enroll.Request) (workload.Workload, bool) {
	if req.PodUID != "" {
		w, ok := p.workload(sandbox{PodUID: req.PodUID, Namespace: req.PodNamespace, Name: req.PodName})
		return w, ok && w.Node != ""
	}
	for _, w := range p.Registry.Local(p.Node) {
		if w.Namespace == req.PodNamespace && w.Name == req.PodName {
			return w, true
		}
	}
	return workload.Workload{}, false
}

// claimed records what a request claims.
func (p *Pods) claimed(req enroll.Request, podUID string) (*pod, error) {
	s, err := p.claim(req, podUID)
	if err != nil {
		return nil, err
	}
	return p.record(s)
}

// claim turns a request into a record after checking what it claims: the netns
// holds one of the addresses or more, is not the node's, and is nobody else's.
func (p *Pods) claim(req enroll.Request, podUID string) (sandbox, error) {
	ns, err := netns.Open(req.Netns)
	if err != nil {
		return sandbox{}, fmt.Errorf("netns: %w", err)
	}
	defer ns.Close()
	if _, err := p.mayHold(ns, req.IPs); err != nil {
		return sandbox{}, fmt.Errorf("netns %s: %w", req.Netns, err)
	}
	if pod, known := p.byCookie(ns.Cookie()); len(req.IPs) == 0 && (!known || pod.sandbox().ContainerID != req.ContainerID) {
		// A second network may do without.
		return sandbox{}, errors.New("ips: the previous plugin gave the pod no address")
	}
	if podUID == "" {
		podUID = req.PodUID
	}
	s := sandbox{ContainerID: req.ContainerID, PodUID: podUID, Namespace: req.PodNamespace, Name: req.PodName,
		Netns: req.Netns, Cookie: ns.Cookie(), Inode: ns.Inode(), BootID: p.boot,
		Networks: []network{{Name: req.Network, IfName: req.IfName, IPs: req.IPs}}}
	return s, p.unclaimed(s)
}

// record remembers s, on disk first: what is enrolled must survive us. One netns
// has one record, as two would undo each other's steering: what is said of it
// again, by a repeated ADD or one for another network, changes the record and
// cuts nothing. A container that has another netns now has lost the old one.
func (p *Pods) record(s sandbox) (*pod, error) {
	for _, old := range p.all() {
		if was := old.sandbox(); was.ContainerID == s.ContainerID && was.Cookie != s.Cookie {
			if err := p.takeOff(old, func(network) bool { return true }); err != nil {
				return nil, err
			}
		}
	}
	pod, known, err := p.recordNew(s)
	if known && err == nil {
		err = p.amend(pod, s)
	}
	return pod, err
}

// recordNew records s unless its netns has a record.
func (p *Pods) recordNew(s sandbox) (pod *pod, known bool, err error) {
	p.recording.Lock()
	defer p.recording.Unlock()
	if err := p.unclaimed(s); err != nil { // in the meantime
		return nil, false, err
	}
	if pod, known := p.byCookie(s.Cookie); known {
		return pod, true, nil
	}
	if n := len(p.all()); n >= maxSandboxes {
		return nil, false, fmt.Errorf("%d sandboxes of this node are recorded, which is the limit", n)
	}
	if err := p.files.write(s); err != nil {
		return nil, false, err
	}
	return p.remember(s, s.Netns), false, nil
}

// amend brings the record of pod up to what was said later.
func (p *Pods) amend(pod *pod, later sandbox) error {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if pod.gone {
		return fmt.Errorf("netns %s ended meanwhile", later.Netns)
	}
	before := pod.sandbox()
	s := before.with(later)
	if len(s.Networks) > maxNetworks {
		return fmt.Errorf("pod %v is on %d networks, which is the limit", pod, maxNetworks)
	}
	if reflect.DeepEqual(s, before) {
		return nil
	}
	if err := p.store(pod, s); err != nil {
		return err
	}
	pod.path, pod.lost = s.Netns, false
	if pod.member == nil {
		return nil
	}
	return p.refresh(pod.member) // the answer says that its new addresses are steered
}

// store puts s in the place of pod's record; pod.mu is held.
func (p *Pods) store(pod *pod, s sandbox) error {
	if err := p.files.write(s); err != nil {
		return err
	}
	pod.known.Store(&s)
	return nil
}

func (p *Pods) byCookie(cookie netns.Cookie) (*pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.byNetns[cookie]
	return pod, ok
}

// byID returns the sandbox of a container.
func (p *Pods) byID(containerID string) (*pod, bool) {
	for _, pod := range p.all() {
		if pod.sandbox().ContainerID == containerID {
			return pod, true
		}
	}
	return nil, false
}
