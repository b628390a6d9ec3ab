// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// reconcile brings every sandbox to what its labels say.
func (p *Pods) reconcile(ctx context.Context) {
	p.discover()
	p.warnOfProbes()
	p.rounds.each(p.all(), func(pod *pod) {
		if err := p.converge(ctx, pod); err != nil && ctx.Err() == nil {
			p.Log.Warn("pod is not enrolled, will try again", logPod, pod.String(), logError, err)
		}
	})
}

// converge enrolls or unenrolls one pod as its labels say. An unknown pod
// stays as it is, and so does one of which no label says anything: the registry may be
// late, and leaving the mesh needs a label, not a gap. Nor does a pod leave
// because its containers ended: what still runs of it is not let out. A pod that an
// earlier ztunnel enrolled is not let go while the registry is a stored snapshot: the
// label that put it into the mesh may be younger.
func (p *Pods) converge(ctx context.Context, pod *pod) error {
	defer pod.lock()()
	s := pod.sandbox()
	stored := p.Registry.All().Stored // before w: what follows a stored snapshot is never stored
	w, known := p.workload(s)
	switch {
	case pod.gone || !known || w.Undecided:
		return nil
	case p.wanted(w) && pod.member == nil:
		if s.deleted() || pod.lost {
			return nil
		}
		return p.join(ctx, pod, w)
	case !w.Meshed && pod.member != nil:
		p.leave(pod)
	case !w.Meshed && pod.adopted && stored:
		return nil
	case !w.Meshed && pod.adopted:
		return p.letGo(pod)
	case !w.Meshed:
		return p.unrouteLeft(pod)
	case pod.member != nil:
		return errors.Join(pod.member.update(p.Datapath, w), p.watchForwarding(pod.member, w))
	}
	return nil
}

// workload is the registry's word on a sandbox. The UID of a static pod is only
// claimed by an annotation, so the names have to agree.
func (p *Pods) workload(s sandbox) (workload.Workload, bool) {
	w, ok := p.Registry.ByUID(s.PodUID)
	return w, ok && w.Namespace == s.Namespace && w.Name == s.Name
}

// wanted says whether labels put w into the mesh on this node.
func (p *Pods) wanted(w workload.Workload) bool {
	return w.Meshed && !w.HostNetwork && !w.Terminated && w.Node == p.Node
}

// join enrolls pod; pod.mu is held.
func (p *Pods) join(ctx context.Context, pod *pod, w workload.Workload) error {
	start := time.Now()
	m := &member{sandbox: pod.sandbox(), id: w.ID, declared: w.Declared, probePorts: w.ProbePorts, life: pod.life, adopted: pod.adopted}
	m.Netns = pod.path
	if err := p.admit(pod); err != nil {
		pod.failed = err.Error()
		return err
	}
	if err := doSteps(ctx, slices.Concat(p.carrying(), p.steering()), m); err != nil {
		pod.failed = err.Error()
		if m.adopted { // it stays steered, and Verify must not look for what was undone
			p.Datapath.LetBe(m.Cookie)
		}
		return err
	}
	m.adopted, pod.adopted = false, false
	pod.member, pod.failed, pod.unconfirmed = m, "", ""
	p.Metrics.PodStarted()
	p.Log.Info("pod enrolled", logPod, pod.String(), logIdentity, w.ID.String(), logTook, time.Since(start).String())
	p.Events.Tell(&events.Event{Kind: events.Enrolled, Pod: pod.String(), Identity: w.ID.String()})
	return nil
}

// admit refuses a pod that would not be protected; pod.mu is held.
func (p *Pods) admit(pod *pod) (err error) {
	pod.hooks, err = p.proveHooks(pod.sandbox(), processes)
	pod.astray = ""
	return err
}

// leave takes pod out of the mesh; pod.mu is held. New connections go their
// own way at once, open ones are carried until they end.
func (p *Pods) leave(pod *pod) {
	m := pod.member
	pod.member = nil
	pod.setConfirmed(false)
	problems := undoSteps(m.life, p.steering(), m)
	p.leaving.Go(func() {
		problems = errors.Join(problems, undoSteps(m.life, p.carrying(), m))
		p.Metrics.PodStopped()
		if problems != nil {
			p.Log.Error("unenrolling pod", logPod, m.String(), logError, problems)
		}
	})
	p.Log.Info("pod unenrolled", logPod, pod.String())
	p.Events.Tell(&events.Event{Kind: events.Unenrolled, Pod: pod.String(), Identity: m.id.String()})
}

// cut ends every connection of pod and lets go of its netns, and leaves it
// steered: what might still run there is refused. pod.mu is held.
func (p *Pods) cut(pod *pod) error {
	pod.end()
	pod.life, pod.end = context.WithCancel(p.base) // it may turn up again
	m := pod.member
	if m == nil {
		return nil
	}
	m.adopted = true // so its steering stays
	problems := undoSteps(m.life, p.steering(), m)
	// Before its listeners close: Verify would put them back.
	p.Datapath.LetBe(m.Cookie)
	problems = errors.Join(problems, undoSteps(m.life, p.carrying(), m))
	p.Metrics.PodStopped()
	pod.member, pod.adopted = nil, true
	pod.setConfirmed(false)
	return problems
}

// forget ends a sandbox for good, of a pod outside the mesh or of a netns that
// is gone: with its steering and its record. pod.mu is held.
func (p *Pods) forget(pod *pod) error {
	problems := p.cut(pod)
	if pod.adopted {
		problems = errors.Join(problems, p.Datapath.Forget(pod.sandbox().Cookie))
	}
	pod.end()
	pod.gone = true
	cookie := pod.sandbox().Cookie
	problems = errors.Join(problems, p.Datapath.ForgetRoute(cookie))
	p.mu.Lock()
	delete(p.byNetns, cookie)
	p.mu.Unlock()
	return errors.Join(problems, p.files.remove(cookie))
}
