// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const (
	verifyEvery = 2 * time.Second // how often the kernel is asked whether it still agrees
	atOnce      = 4               // pods that are enrolled at the same time
)

// pods knows every pod sandbox of this node, meshed or not, and keeps exactly
// those in the mesh whose labels say so. Sandboxes come from the CNI plugin
// (cni.go), from records of an earlier run (sandbox.go) and, for pods older
// than both, from /proc (scan.go).
type pods struct {
	node    string
	records hbone.Records
	tunnels bool // between pods of this node, too
	boot    string
	host    netns.Cookie // the node's own netns is never enrolled
	drain   time.Duration
	files   sandboxFiles
	log     *slog.Logger

	datapath *redirect.Datapath
	registry *workload.Registry
	policy   *policy.Set
	peers    *proxy.Peers
	certs    *certs.Store // set before Run
	metrics  *metrics.Metrics

	loaded  chan struct{}   // closed when the records of an earlier run are taken over
	base    context.Context // lives as long as Run; set before loaded is closed
	leaving sync.WaitGroup  // members that left and still carry what was open

	recording sync.Mutex // one new record at a time; before pod.mu and mu

	neighbours neighbours

	mu          sync.Mutex // guards what follows; nothing is locked under it
	byContainer map[string]*pod
	serving     map[*member]struct{} // whose proxies run, those included that left and still carry
	verified    int                  // pods that the kernel confirmed when it was last asked
}

// pod is one sandbox and whether it is in the mesh.
type pod struct {
	sandbox                    // never changes
	life    context.Context    // ends with the sandbox: what it still carries is cut
	end     context.CancelFunc // of life

	mu      sync.Mutex // one change of membership at a time; guards what follows
	path    string     // that leads to its netns now; at first the sandbox's
	member  *member    // nil while outside the mesh
	adopted bool       // steered by an earlier run: refused until it is enrolled again or let go
	gone    bool       // deleted: never enroll again
	failed  string     // why the last attempt to enroll failed; "" when it did not
}

func newPods(cfg Config, host netns.Cookie, datapath *redirect.Datapath, registry *workload.Registry,
	policies *policy.Set, peers *proxy.Peers, counts *metrics.Metrics) (*pods, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	files, err := openSandboxFiles(cfg.sandboxDir())
	if err != nil {
		return nil, err
	}
	records := hbone.OwnRecords
	if cfg.StdTLSRecords {
		records = hbone.StdRecords
	}
	return &pods{
		node: cfg.NodeName, records: records, tunnels: cfg.SameNodeTunnel, boot: boot, host: host, drain: cfg.Drain, files: files, log: cfg.Log,
		datapath: datapath, registry: registry, policy: policies, peers: peers, metrics: counts,
		loaded: make(chan struct{}), byContainer: map[string]*pod{}, serving: map[*member]struct{}{},
	}, nil
}

// Run takes over the records of an earlier run and follows labels and kernel
// until ctx ends. Then it drains: listeners close at once and open
// connections end by themselves or at the deadline. Steering stays in the
// kernel, so that without us connections are refused.
func (p *pods) Run(ctx context.Context) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer p.leaving.Wait()
	defer cut()
	p.base = base
	if err := p.registry.WaitSynced(ctx); err != nil {
		return err
	}
	if err := p.takeOver(); err != nil {
		return err
	}
	close(p.loaded)

	tick := time.NewTicker(verifyEvery)
	defer tick.Stop()
	for {
		changed := p.registry.Changed()
		p.reconcile(ctx)
		select {
		case <-ctx.Done():
			p.shutdown()
			return nil
		case <-changed:
		case <-tick.C:
			p.verify(ctx)
		}
	}
}

// reconcile brings every sandbox to what its labels say.
func (p *pods) reconcile(ctx context.Context) {
	p.discover()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, pod := range p.all() {
		group.Go(func() error {
			if err := p.converge(ctx, pod); err != nil && ctx.Err() == nil {
				p.log.Warn("pod is not enrolled, will try again", "pod", pod.String(), "error", err)
			}
			return nil
		})
	}
	group.Wait()
}

// converge enrolls or unenrolls one pod as its labels say. An unknown pod
// stays as it is: the registry may be late, and leaving the mesh needs a
// label, not a gap. Nor does a pod leave because its containers ended: what
// still runs of it is not let out.
func (p *pods) converge(ctx context.Context, pod *pod) error {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	w, known := p.registry.ByUID(pod.PodUID)
	switch {
	case pod.gone || !known:
		return nil
	case p.wanted(w) && pod.member == nil:
		return p.join(ctx, pod, w)
	case !w.Meshed && pod.member != nil:
		p.leave(pod)
	case !w.Meshed && pod.adopted:
		return p.letGo(pod)
	case pod.member != nil:
		return pod.member.update(p.datapath, w)
	}
	return nil
}

// wanted says whether labels put w into the mesh on this node.
func (p *pods) wanted(w workload.Workload) bool {
	return w.Meshed && !w.HostNetwork && !w.Terminated && w.Node == p.node
}

// join enrolls pod; pod.mu is held.
func (p *pods) join(ctx context.Context, pod *pod, w workload.Workload) error {
	start := time.Now()
	m := &member{sandbox: pod.sandbox, id: w.ID, probePorts: w.ProbePorts, life: pod.life, adopted: pod.adopted}
	m.Netns = pod.path
	if err := doSteps(ctx, p.steps(), m); err != nil {
		pod.failed = err.Error()
		return err
	}
	m.adopted, pod.adopted = false, false
	pod.member, pod.failed = m, ""
	p.metrics.PodStarted()
	p.log.Info("pod enrolled", "pod", pod.String(), "identity", w.ID.String(), "took", time.Since(start).String())
	return nil
}

// leave takes pod out of the mesh; pod.mu is held. New connections go their
// own way at once, open ones are carried until they end.
func (p *pods) leave(pod *pod) {
	m, steps := pod.member, p.steps()
	pod.member = nil
	problems := undoSteps(pod.life, steps[steeringSteps:], m)
	p.leaving.Go(func() {
		problems = errors.Join(problems, undoSteps(pod.life, steps[:steeringSteps], m))
		p.metrics.PodStopped()
		if problems != nil {
			p.log.Error("unenrolling pod", "pod", pod.String(), "error", problems)
		}
	})
	p.log.Info("pod unenrolled", "pod", pod.String())
}

// forget ends a sandbox for good: its connections are cut, for its veth is
// going, and its record is removed.
func (p *pods) forget(pod *pod) error {
	p.mu.Lock()
	if p.byContainer[pod.ContainerID] == pod {
		delete(p.byContainer, pod.ContainerID)
	}
	p.mu.Unlock()

	pod.mu.Lock()
	defer pod.mu.Unlock()
	var problems error
	if pod.member != nil {
		// Steering first: verify would else find listeners gone and fail to
		// put them back.
		steps := p.steps()
		problems = undoSteps(pod.life, steps[steeringSteps:], pod.member)
		pod.end()
		problems = errors.Join(problems, undoSteps(pod.life, steps[:steeringSteps], pod.member))
		p.metrics.PodStopped()
	} else if pod.adopted {
		problems = p.letGo(pod)
	}
	pod.end()
	pod.member, pod.gone = nil, true
	return errors.Join(problems, p.files.remove(pod.ContainerID))
}

// verify lets go of sandboxes whose netns was removed without a DEL, and has
// the kernel confirm the others.
func (p *pods) verify(ctx context.Context) {
	for _, pod := range p.all() {
		reason := p.stillThere(pod)
		if reason == nil {
			continue
		}
		p.log.Info("sandbox is gone", "pod", pod.String(), "reason", reason)
		if err := p.forget(pod); err != nil {
			p.log.Error("forgetting sandbox", "pod", pod.String(), "error", err)
		}
	}
	if err := p.repair(ctx); err != nil {
		p.log.Error("verifying steering", "error", err)
	}
}

// repair asks the kernel whether every enrolled pod is steered and restores
// what another hand removed.
func (p *pods) repair(ctx context.Context) error {
	repaired, err := p.datapath.Verify(ctx)
	for _, what := range repaired {
		p.metrics.LinkRepaired(kindOf(what))
		p.log.Error("steering was removed by another hand and is restored", "what", what)
	}
	verified := 0
	for _, pod := range p.all() {
		if p.confirmed(pod, err == nil) {
			verified++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verified = verified
	return err
}

// kindOf is what was repaired, without saying of whom: a label of a metric must
// not grow with the pods that come and go.
func kindOf(what string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(what, "pin of "), " ")
	return kind
}

// confirmed reports whether pod is in the mesh and the kernel agrees; else only
// tunnels lead to it. Of one whose membership is changing it does not. sound says
// that what all pods share is in order.
func (p *pods) confirmed(pod *pod, sound bool) bool {
	if !pod.mu.TryLock() {
		return false
	}
	defer pod.mu.Unlock()
	if pod.member == nil {
		return false
	}
	ok := sound && p.steered(pod.member)
	if ok {
		p.neighbours.add(pod.member)
	} else {
		p.neighbours.remove(pod.member)
	}
	return ok
}

// shutdown closes all listeners and waits for open connections until the
// drain deadline.
func (p *pods) shutdown() {
	deadline, cancel := context.WithTimeout(p.base, p.drain)
	defer cancel()
	var group sync.WaitGroup
	for m := range p.carrying() {
		group.Go(func() { m.carrier.finish(deadline) })
	}
	group.Wait()
}

// retire replaces the tunnels that were made with id's former certificate or
// bundle.
func (p *pods) retire(id spiffeid.ID) {
	for m := range p.carrying() {
		if m.id == id {
			m.carrier.retire()
		}
	}
}

// recheck asks the policies in force about every open connection.
func (p *pods) recheck() {
	for m := range p.carrying() {
		m.carrier.pod.Recheck()
	}
}

func (p *pods) all() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.byContainer))
}

// carrying is every member that has connections, or may have: those that are
// joining, and those that left and carry what was open. It waits for neither.
func (p *pods) carrying() map[*member]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.serving)
}

// enrolled reports whether the pod is in the mesh, and if not, why the last
// attempt failed.
func (pod *pod) enrolled() (bool, string) {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	return pod.member != nil, pod.failed
}
