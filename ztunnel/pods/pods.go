// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cni/enroll"
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

// Config says what Pods needs to know and whom it works with.
type Config struct {
	Node           string        // as spec.nodeName of the pods to look after; required
	Host           netns.Cookie  // of the node's own netns, which is never enrolled; required
	Dir            string        // root-only directory of sandbox records, made if missing; required
	Drain          time.Duration // how long open connections may end by themselves when Run's context ends; default 0
	SameNodeTunnel bool          // carry connections between pods of this node in tunnels; default false
	StdTLSRecords  bool          // leave TLS records to crypto/tls; default false

	Datapath *redirect.Datapath // required
	Registry *workload.Registry // required
	Policy   *policy.Set        // required
	Peers    *proxy.Peers       // required
	Budget   *proxy.Budget      // required; one for the process
	Certs    *certs.Store       // required; its OnRotate calls Retire
	Metrics  *metrics.Metrics   // required
	Log      *slog.Logger       // required
}

// Pods knows every pod sandbox of this node, meshed or not, and keeps exactly
// those in the mesh whose labels say so. Sandboxes come from the CNI plugin
// (enroll.go), from records of an earlier run (sandbox.go) and, for pods older
// than both, from /proc (proc.go).
type Pods struct {
	Config
	boot  string
	files sandboxFiles
	gate  *hbone.Gate // of the handshakes of all pods

	loaded    chan struct{}   // closed when the records of an earlier run are taken over
	base      context.Context // lives as long as Run; set before loaded is closed
	leaving   sync.WaitGroup  // members that left and still carry what was open
	following sync.WaitGroup  // of the netns of members

	recording sync.Mutex // one new record at a time; before mu

	neighbours neighbours
	takers     takers
	routes     routes
	rounds     rounds

	said map[string]bool // by warnOfProbes

	mu          sync.Mutex // guards what follows; nothing is locked under it
	byNetns     map[netns.Cookie]*pod
	serving     map[*member]struct{} // whose proxies run, those included that left and still carry
	ended       metrics.Tunnels      // what members carried whose proxies ran
	stray       string               // UID of another node's pod whose ADD came here last
	unexplained []redirect.Leftover  // netns that are steered, and nothing says whose they are
	unfound     map[string]string    // pods of the mesh without a sandbox, and why none was found

	misplaced string // what the log last said of the node's name; Run's own
	noKubelet string // why no probe is exempt, when that was last looked at; only Run's goroutine uses it
}

// pod is one sandbox and whether it is in the mesh.
type pod struct {
	known atomic.Pointer[sandbox] // its netns and whose it is never change; written under mu

	visited     sync.Mutex   // one call of rounds at a time; before mu
	confirmedAt atomic.Int64 // when the kernel last agreed that it is in the mesh, in ns; 0: it does not

	mu        sync.Mutex         // one change of membership at a time; guards what follows
	life      context.Context    // ends with the sandbox: what it still carries is cut
	end       context.CancelFunc // of life
	path      string             // that leads to its netns now; at first the sandbox's, "" if it is lost
	lost      bool               // nothing leads to its netns: not enrolled until something does
	member    *member            // nil while outside the mesh
	unrouting pause              // of a pod outside the mesh, whose app holds what keeps its routing
	adopted   bool               // steered and not served: refused until it is enrolled again or let go
	gone      bool               // forgotten: never enroll again
	hooks     hooks              // of the member
	astray    string             // why the hooks do not run for the member's processes; "" while nobody knows better
	failed    string             // why the last attempt to enroll failed; "" when it did not
}

func (pod *pod) sandbox() sandbox { return *pod.known.Load() }

func (pod *pod) String() string { return pod.sandbox().String() }

// New makes the directory of records. Nothing is looked at before Run.
func New(cfg Config) (*Pods, error) {
	boot, err := enroll.BootID()
	if err != nil {
		return nil, err
	}
	files, err := openSandboxFiles(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &Pods{
		Config: cfg, boot: boot, files: files, gate: hbone.NewGate(),
		loaded: make(chan struct{}), byNetns: map[netns.Cookie]*pod{}, serving: map[*member]struct{}{},
		takers: takers{members: map[*member]struct{}{}}, routes: routes{users: map[netns.Cookie]int{}},
	}, nil
}

// Run takes over the records of an earlier run and follows labels and kernel
// until ctx ends. Then it drains: listeners close at once and open
// connections end by themselves or at the deadline. Steering stays in the
// kernel, so that without us connections are refused.
func (p *Pods) Run(ctx context.Context) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer p.following.Wait()
	defer p.leaving.Wait()
	defer cut()
	p.base = base
	p.noteKubelet()
	p.pruneOwn()
	if err := p.Registry.WaitSynced(ctx); err != nil {
		return err
	}
	if err := p.takeOver(); err != nil {
		return err
	}
	close(p.loaded)

	tick := time.NewTicker(verifyEvery)
	defer tick.Stop()
	for {
		changed := p.Registry.Changed()
		p.reconcile(ctx)
		select {
		case <-ctx.Done():
			p.rounds.wait()
			p.shutdown()
			return nil
		case <-changed:
		case <-tick.C:
			p.verify(ctx)
		}
	}
}

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
// stays as it is, and one of which no label says anything: the registry may be
// late, and leaving the mesh needs a label, not a gap. Nor does a pod leave
// because its containers ended: what still runs of it is not let out.
func (p *Pods) converge(ctx context.Context, pod *pod) error {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	s := pod.sandbox()
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
	pod.member, pod.failed = m, ""
	p.Metrics.PodStarted()
	p.Log.Info("pod enrolled", logPod, pod.String(), logIdentity, w.ID.String(), logTook, time.Since(start).String())
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

// verify finds out which sandboxes are gone, and has the kernel confirm the
// others.
func (p *Pods) verify(ctx context.Context) {
	running := sync.OnceValue(processes)
	p.rounds.each(p.all(), func(pod *pod) {
		if err := p.watch(pod, running); err != nil {
			p.Log.Error("looking after a sandbox", logPod, pod.String(), logError, err)
		}
	})
	if err := p.reconcileKernel(); err != nil {
		p.Log.Error("looking for what is steered and not known", logError, err)
	}
	if err := p.repair(ctx); err != nil {
		p.Log.Error("verifying steering", logError, err)
	}
	p.sayMisplaced()
}

// repair asks the kernel whether every enrolled pod is steered and restores
// what another hand removed.
func (p *Pods) repair(ctx context.Context) error {
	repaired, err := p.Datapath.Verify(ctx)
	p.noteKubelet()
	for _, what := range repaired {
		p.Metrics.Repaired(kindOf(what))
		p.Log.Error("steering was removed by another hand and is restored", logWhat, what)
	}
	running := sync.OnceValue(processes)
	p.rounds.each(p.all(), func(pod *pod) {
		pod.setConfirmed(p.confirmed(pod, err == nil, running))
	})
	return err
}

// noteKubelet logs when the kubelet's cgroup comes or goes.
func (p *Pods) noteKubelet() {
	why := ""
	if err := p.Datapath.Kubelet(); err != nil {
		why = err.Error()
	}
	switch {
	case why == p.noKubelet:
	case why == "":
		p.Log.Info("the kubelet's cgroup is found, its probes reach the pods")
	default:
		p.Log.Warn("the kubelet's cgroup is not found, probes are treated like all other connections", logError, why)
	}
	p.noKubelet = why
}

// kindOf is what was repaired, without saying of whom: a label of a metric must
// not grow with the pods that come and go.
func kindOf(what string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(what, "pin of "), " ")
	return kind
}

// confirmed refreshes pod, and reports whether it is in the mesh and the kernel
// agrees; else only tunnels lead to it. A pod that is joining or leaving is not
// confirmed. sound says that what all pods share is in order.
func (p *Pods) confirmed(pod *pod, sound bool, running func() []process) bool {
	if !pod.mu.TryLock() {
		return false
	}
	defer pod.mu.Unlock()
	if pod.member == nil {
		return false
	}
	err := p.refresh(pod.member)
	if err != nil {
		p.Log.Error("following the netns of a pod", logPod, pod.String(), logError, err)
	}
	ok := sound && err == nil && p.steered(pod.member) && pod.member.forwarding.known()
	if ok {
		p.neighbours.add(pod.member)
	} else {
		p.neighbours.remove(pod.member)
	}
	p.watchHooks(pod, running)
	return ok && pod.hooks == proven
}

// shutdown closes all listeners and waits for open connections until the
// drain deadline.
func (p *Pods) shutdown() {
	deadline, cancel := context.WithTimeout(p.base, p.Drain)
	defer cancel()
	var group sync.WaitGroup
	for m := range p.served() {
		group.Go(func() { m.carrier.finish(deadline) })
	}
	group.Wait()
}

// Retire replaces the tunnels that were made with id's former certificate or
// bundle.
func (p *Pods) Retire(id spiffeid.ID) {
	for m := range p.served() {
		if m.id == id {
			m.carrier.retire()
		}
	}
}

// Recheck asks the policies in force about every open connection.
func (p *Pods) Recheck() {
	for m := range p.served() {
		m.carrier.pod.Recheck()
	}
}

func (p *Pods) all() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.byNetns))
}

// served is every member that has connections, or may have: those that are
// joining, and those that left and carry what was open. It waits for neither.
func (p *Pods) served() map[*member]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.serving)
}

// enrolled reports whether the pod is in the mesh, and if not, why the last
// attempt failed.
func (pod *pod) enrolled() (bool, string) {
	pod.mu.Lock()
	defer pod.mu.Unlock()
	return pod.member != nil && pod.astray == "", cmp.Or(pod.astray, pod.failed)
}
