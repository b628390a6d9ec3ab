// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
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
		p.Log.Warn("pod may not start", "pod", req.PodNamespace+"/"+req.PodName, "reason", reason)
		return enroll.Reply{Verdict: enroll.Block, Reason: reason}, nil
	}
	if err := p.ready(ctx); err != nil {
		return block("ztunnel on %s is still starting: %v", p.Node, err)
	}
	w, known := p.await(ctx, req)
	if !known {
		// As the plugin decides when nobody answers.
		meshed, found := namespacesOf(p.Registry.All())[req.PodNamespace]
		if !found {
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
	s, err := p.claim(req, w.UID)
	if err == nil {
		err = p.record(s)
	}
	if err != nil {
		if known && p.wanted(w) {
			return block("%v", err)
		}
		// Outside the mesh nothing depends on us: the pod may start, and
		// is not remembered.
		p.Log.Warn("sandbox is not recorded", "pod", req.PodNamespace+"/"+req.PodName, "error", err)
		return enroll.Reply{Verdict: enroll.Ignore}, nil
	}
	if known && w.Unsteerable != "" {
		p.Log.Warn("pod is not in the mesh although its labels say so", "pod", w.String(), "reason", w.Unsteerable)
	}
	if !known || !p.wanted(w) {
		return enroll.Reply{Verdict: enroll.Ignore}, nil
	}
	pod, recorded := p.byID(s.ContainerID)
	if recorded {
		if err := p.converge(ctx, pod); err != nil {
			return block("%v", err)
		}
		recorded, _ = pod.enrolled()
	}
	if !recorded {
		return block("pod %v left the mesh or was deleted meanwhile", s)
	}
	return enroll.Reply{Verdict: enroll.Enrolled}, nil
}

// Del forgets the sandbox.
func (p *Pods) Del(ctx context.Context, req enroll.Request) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	var problems error
	for _, pod := range p.all() {
		if isOf(req, pod.sandbox) {
			p.Log.Info("sandbox deleted", "pod", pod.String())
			problems = errors.Join(problems, p.forget(pod))
		}
	}
	return problems
}

// isOf reports whether a DEL is for that sandbox, and not only for another
// network that it is taken off. A sandbox that was found has no container ID,
// and its pod may have had another before, which runtimes delete more than
// once: then the netns tells.
func isOf(req enroll.Request, s sandbox) bool {
	switch {
	case s.ContainerID == req.ContainerID:
		return s.Network == req.Network
	case s.ContainerID != scanned+req.PodUID:
		return false
	case req.Netns == "":
		return true
	}
	s.Netns = req.Netns
	return sameNetns(s) == nil
}

// Check confirms against the kernel that the sandbox is as its labels say.
func (p *Pods) Check(ctx context.Context, req enroll.Request) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	pod, ok := p.byID(req.ContainerID)
	if !ok {
		return fmt.Errorf("sandbox %s of pod %s/%s is not known to ztunnel", req.ContainerID, req.PodNamespace, req.PodName)
	}
	w, known := p.Registry.ByUID(pod.PodUID)
	if !known || !p.wanted(w) {
		return nil
	}
	if ok, why := pod.enrolled(); !ok {
		return fmt.Errorf("pod %v belongs in the mesh and is not enrolled: %s", pod.sandbox, why)
	}
	return p.repair(ctx)
}

// GC forgets every sandbox of the network that the runtime does not list.
func (p *Pods) GC(ctx context.Context, network string, valid []enroll.Attachment) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	var problems error
	for _, pod := range p.all() {
		listed := slices.ContainsFunc(valid, func(a enroll.Attachment) bool { return a.ContainerID == pod.ContainerID })
		if pod.Network == network && !listed {
			p.Log.Info("sandbox is not among the runtime's attachments", "pod", pod.String())
			problems = errors.Join(problems, p.forget(pod))
		}
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
		if w, ok := p.find(req); ok {
			return w, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return workload.Workload{}, false
		}
	}
}

func (p *Pods) find(req enroll.Request) (workload.Workload, bool) {
	if req.PodUID != "" {
		w, ok := p.Registry.ByUID(req.PodUID)
		return w, ok && w.Node != "" && w.Namespace == req.PodNamespace && w.Name == req.PodName
	}
	for _, w := range p.Registry.Local(p.Node) {
		if w.Namespace == req.PodNamespace && w.Name == req.PodName {
			return w, true
		}
	}
	return workload.Workload{}, false
}

// claim turns a request into a record after checking what it claims: the netns
// holds the addresses, is not the node's, and is nobody else's.
func (p *Pods) claim(req enroll.Request, podUID string) (sandbox, error) {
	ns, err := netns.Open(req.Netns)
	if err != nil {
		return sandbox{}, fmt.Errorf("netns: %w", err)
	}
	defer ns.Close()
	if _, err := p.mayHold(ns, req.IPs); err != nil {
		return sandbox{}, fmt.Errorf("netns %s: %w", req.Netns, err)
	}
	if len(req.IPs) == 0 {
		return sandbox{}, errors.New("ips: the previous plugin gave the pod no address")
	}
	if podUID == "" {
		podUID = req.PodUID
	}
	s := sandbox{ContainerID: req.ContainerID, Network: req.Network, PodUID: podUID,
		Namespace: req.PodNamespace, Name: req.PodName, Netns: req.Netns,
		Cookie: ns.Cookie(), Inode: ns.Inode(), BootID: p.boot, IPs: req.IPs}
	return s, p.unclaimed(s)
}

// record remembers s, on disk first: what is enrolled must survive us. A
// repeated ADD finds its pod as it is; one for a new netns replaces the old. One
// netns has one record: two would undo each other's steering.
func (p *Pods) record(s sandbox) error {
	p.recording.Lock()
	defer p.recording.Unlock()
	if err := p.unclaimed(s); err != nil { // in the meantime
		return err
	}
	for _, old := range p.all() {
		switch {
		case old.ContainerID != s.ContainerID && old.Cookie != s.Cookie:
			continue
		case old.Cookie == s.Cookie && (old.ContainerID == s.ContainerID && slices.Equal(old.IPs, s.IPs) || isScanned(s)):
			return nil
		}
		if err := p.forget(old); err != nil {
			return err
		}
	}
	if err := p.files.write(s); err != nil {
		return err
	}
	p.remember(s)
	return nil
}

func (p *Pods) byID(containerID string) (*pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.byContainer[containerID]
	return pod, ok
}
