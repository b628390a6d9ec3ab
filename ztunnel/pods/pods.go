// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workers"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const (
	verifyEvery = 2 * time.Second // how often the kernel is asked whether it still agrees
	atOnce      = 4               // pods that are enrolled at the same time
)

// Config says what Pods needs to know and whom it works with.
type Config struct {
	Node           string        // as spec.nodeName of the pods to look after; required
	Cluster        string        // its name; default Kubernetes
	Host           netns.Cookie  // of the node's own netns, which is never enrolled; required
	Dir            string        // root-only directory of sandbox records, made if missing; required
	Drain          time.Duration // how long open connections may end by themselves when Run's context ends; default 0
	SameNodeTunnel bool          // carry connections between pods of this node in tunnels; default false
	StdTLSRecords  bool          // leave TLS records to crypto/tls; default false

	Datapath        *redirect.Datapath // required
	Registry        *workload.Registry // required
	Policy          *policy.Set        // required
	NetworkPolicies *networkpolicy.Set // default nil: there are none
	Origins         proxy.Origins      // default: warn
	Peers           *proxy.Peers       // required
	Budget          *proxy.Budget      // required; one for the process
	Certs           *certs.Store       // required; its OnRotate calls Retire, its OnBundle and OnDeny Reprove
	Metrics         *metrics.Metrics   // required
	Edges           *edges.Table       // of who talks to whom; default nil: nobody asks
	Events          *events.Stream     // of connections, enrolment and repairs; default nil: nobody listens
	Log             *slog.Logger       // required

	Access     *slog.Logger  // gets the access records; default Log
	GoodOneOf  uint64        // of how many connections that end well one has an access record; default 0: each has
	AliveEvery time.Duration // how often connections that are open have a record; default 0: never
}

// Pods knows every pod sandbox of this node, meshed or not, and keeps exactly
// those in the mesh whose labels say so. Sandboxes come from the CNI plugin
// (enroll.go), from records of an earlier run (sandbox.go) and, for pods older
// than both, from /proc (proc.go).
type Pods struct {
	Config
	boot    string
	files   sandboxFiles
	gate    *hbone.Gate   // of the handshakes of all pods
	workers *workers.Pool // of all pods' connections

	loaded    chan struct{}   // closed when the records of an earlier run are taken over
	base      context.Context // lives as long as Run; set before loaded is closed
	leaving   sync.WaitGroup  // members that left and still carry what was open
	following sync.WaitGroup  // of the netns of members

	recording sync.Mutex // one new record at a time; before mu

	neighbours neighbours
	takers     takers
	routes     routes
	rounds     rounds
	repairs    repairs
	trying     atomic.Int32 // questions that are being answered

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
	known atomic.Pointer[sandbox] // its netns never changes, nor, once its UID is known, whose it is; written under mu

	visited     sync.Mutex                // one call of rounds at a time; before mu
	slow        atomic.Bool               // the last call of rounds took longer than a turn
	confirmedAt atomic.Pointer[time.Time] // when the kernel last agreed that it is in the mesh; nil: it does not

	shown atomic.Pointer[standing] // as it was when mu was last released; never nil

	mu   sync.Mutex         // one change of membership at a time; guards what follows
	life context.Context    // ends with the sandbox: what it still carries is cut
	end  context.CancelFunc // of life
	path string             // that leads to its netns now; at first the sandbox's, "" if it is lost
	standing
	unrouting pause // of a pod outside the mesh, whose app holds what keeps its routing
	gone      bool  // forgotten: never enroll again
	hooks     hooks // of the member
}

// standing is what metrics and dumps tell of a pod.
type standing struct {
	lost    bool    // nothing leads to its netns: not enrolled until something does
	member  *member // nil while outside the mesh
	adopted bool    // steered and not served: refused until it is enrolled again or let go
	astray  string  // why the hooks do not run for the member's processes; "" while nobody knows better
	failed  string  // why the last attempt to enroll failed; "" when it did not

	unconfirmed string // of a member: why the kernel did not confirm it when it was last asked
}

// lock locks mu. The caller may change pod until it calls unlock. Whoever only tells
// of pods reads what unlock shows: a pod may be locked for as long as it takes to look
// at its netns, and no scrape waits for that.
func (pod *pod) lock() (unlock func()) {
	pod.mu.Lock()
	return func() {
		pod.show()
		pod.mu.Unlock()
	}
}

func (pod *pod) show() {
	now := pod.standing
	pod.shown.Store(&now)
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
	cfg.Access = cmp.Or(cfg.Access, cfg.Log)
	return &Pods{
		Config: cfg, boot: boot, files: files, gate: hbone.NewGate(), workers: workers.New(netns.Stranded),
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
	defer p.workers.Close()
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

// Reprove ends the tunnels that the trust bundle of now does not vouch for or the deny set
// of now denies, and what goes beside them. The others do not notice.
func (p *Pods) Reprove() {
	for m := range p.served() {
		m.carrier.reprove()
	}
}

// RestOn is how many tunnels would end if a root were trusted no more, which is named by the
// SHA-256 of its key.
func (p *Pods) RestOn(root [sha256.Size]byte) (n int) {
	for m := range p.served() {
		n += m.carrier.restOn(root)
	}
	return n
}

// Retire replaces the tunnels that were made with id's former certificate.
func (p *Pods) Retire(id spiffeid.ID) {
	for m := range p.served() {
		if m.id == id {
			m.carrier.retire()
		}
	}
}

// Move is Retire that also has open connections move to younger tunnels at once.
func (p *Pods) Move(id spiffeid.ID) {
	for m := range p.served() {
		if m.id == id {
			m.carrier.move()
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
