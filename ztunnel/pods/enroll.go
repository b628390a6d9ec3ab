// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// awaitPod is how long an ADD waits for its pod to appear in the registry. The
// kubelet knew the pod before the runtime did, and our source may be late.
const awaitPod = 2 * time.Second

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
		switch {
		case !found:
			return block("namespace %s is not known on node %s yet", req.PodNamespace, p.Node)
		case known:
			return block("namespace %s is not known on node %s yet, or its label for the mesh, or the pod's, has a value that means nothing",
				req.PodNamespace, p.Node)
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
	defer pod.lock()()
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
	if err := p.restore(ctx); err != nil {
		return err
	}
	if err := p.confirm(pod, nil, processes); err != nil {
		return fmt.Errorf("pod %v: %w", pod, err)
	}
	return nil
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
