// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

const (
	// catchUp is how long a request waits for our source to hear of a pod which
	// its node knows already.
	catchUp = 1500 * time.Millisecond
	// askAfter is how long it waits if the API server can be asked instead.
	askAfter = 50 * time.Millisecond
	// askWithin is how long the API server may take to answer.
	askWithin = 3 * time.Second
)

// nodeQuestions is how often the API server is asked on behalf of one node: nodes of
// good will ask for pods that run.
var nodeQuestions = rate.Limit{PerSecond: 5, Burst: 50}

// errAskedTooOften is why the API server is not asked, though it might know more.
var errAskedTooOften = errors.New("the API server was asked too often about this node; try again later")

// Running is a pod that runs on a node.
type Running struct {
	Node           string
	ServiceAccount identity.ServiceAccount
	UID            string
	Outside        string   // why the mesh does not carry it; empty: it does
	DNSNames       []string // that certificates give it beside its identity; none
}

// place is where pods of a ServiceAccount may run.
type place struct {
	node string
	sa   identity.ServiceAccount
}

// Agent is a pod that speaks for its node, or would, as it is now.
type Agent struct {
	UID, Name      string
	ServiceAccount identity.ServiceAccount
	Node           string
	Addrs          []netip.Addr // where its requests come from, unless they are translated
	Foreign        string       // why it may not speak for its node all the same; empty: it may
}

// Placement is what runs where, by the CA's own source: a node's word is not
// enough, or root on one node could have every identity.
type Placement struct {
	// Ask asks the API server what runs on a node of a ServiceAccount, now, before the
	// answer is no; none. It is set before the first request.
	Ask func(ctx context.Context, node string, sa identity.ServiceAccount) (running []Running, agents []Agent, err error)

	// AskNode asks the API server for the UID of a Node, now; none: a token's node is known
	// by its name alone, as it is if the error wraps a Forbidden of the API server. It is set
	// before the first request.
	AskNode func(ctx context.Context, name string) (uid string, found bool, err error)

	// Trouble is why the source cannot tell, empty if it can; none. It is set before
	// the first request.
	Trouble func() string

	// Log is told what an operator must mend; slog.Default(). It is set before the first
	// request.
	Log *slog.Logger

	asks  *limits
	nodes *nodes

	mu      sync.Mutex // guards what follows
	running map[place][]Running
	agents  map[string]Agent // by UID
	changed chan struct{}    // closed by the next Replace
}

// NewPlacement returns one that knows of nothing yet.
func NewPlacement() *Placement {
	return &Placement{asks: newLimits(nodeQuestions.PerSecond, int(nodeQuestions.Burst)), nodes: newNodes(), changed: make(chan struct{})}
}

// Replace takes over the full picture.
func (p *Placement) Replace(running []Running, agents []Agent) {
	at := make(map[place][]Running, len(running))
	for _, r := range running {
		at[place{r.Node, r.ServiceAccount}] = append(at[place{r.Node, r.ServiceAccount}], r)
	}
	byUID := make(map[string]Agent, len(agents))
	for _, a := range agents {
		byUID[a.UID] = a
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.agents = at, byUID
	close(p.changed)
	p.changed = make(chan struct{})
}

// unknown is why nothing is known, as long as that is so.
func (p *Placement) unknown() error {
	text := "not known yet what runs where"
	if p.Trouble != nil {
		if why := p.Trouble(); why != "" {
			text += ": " + why
		}
	}
	return errors.New(text)
}

// Synced reports whether the picture has been given once.
func (p *Placement) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running != nil
}

// RunsOn returns the pods of sa on node. Before it says that the mesh carries none, it
// asks the API server, or, where there is none, waits a moment for the source. An error
// is that of the API server, or errAskedTooOften.
func (p *Placement) RunsOn(ctx context.Context, node string, sa identity.ServiceAccount) (pods []Running, err error) {
	found := func() bool {
		pods = p.running[place{node, sa}]
		return slices.ContainsFunc(pods, func(r Running) bool { return r.Outside == "" })
	}
	if p.wait(ctx, p.patience(), found) {
		return pods, nil
	}
	asked, _, did, err := p.ask(ctx, node, sa)
	if !did {
		p.wait(ctx, catchUp-p.patience(), found)
		return pods, err
	}
	return asked, err
}

// Agent returns the pod that a token makes of its caller, if there is one that may
// speak for a node. Before it says no, it does as RunsOn.
func (p *Placement) Agent(ctx context.Context, caller Caller) (a Agent, found bool, err error) {
	look := func() bool {
		a, found = p.agents[caller.PodUID]
		return found
	}
	if p.wait(ctx, p.patience(), look) {
		return a, true, nil
	}
	_, agents, asked, err := p.ask(ctx, caller.Node, caller.ServiceAccount)
	if !asked {
		if p.wait(ctx, catchUp-p.patience(), look) {
			return a, true, nil
		}
		return Agent{}, false, err
	}
	for _, a := range agents {
		if a.UID == caller.PodUID {
			return a, true, nil
		}
	}
	return Agent{}, false, err
}

func (p *Placement) patience() time.Duration {
	if p.Ask == nil {
		return catchUp
	}
	return askAfter
}

// ask asks the API server, unless there is none, or the node has had it asked too often.
func (p *Placement) ask(ctx context.Context, node string, sa identity.ServiceAccount) (running []Running, agents []Agent, asked bool, err error) {
	if p.Ask == nil || !p.Synced() {
		return nil, nil, false, nil
	}
	release, _, ok := p.asks.take(node)
	if !ok {
		return nil, nil, false, errAskedTooOften
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	running, agents, err = p.Ask(ctx, node, sa)
	return running, agents, true, err
}

// alive refuses a caller whose node is another of that name by now, or whose pod is not what
// its token says, where the source has pods that speak for the caller's node: one that is
// run by other means has none.
func (p *Placement) alive(ctx context.Context, caller Caller) error {
	if err := p.podIs(caller); err != nil {
		return err
	}
	return p.sameNode(ctx, caller)
}

func (p *Placement) podIs(caller Caller) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, found := p.agents[caller.PodUID]; found {
		return a.is(caller)
	}
	for _, a := range p.agents {
		if a.Node == caller.Node && a.Foreign == "" {
			return refused(identityv1.Reason_TOKEN_POD_GONE, "the token's pod, %s/%s of UID %s, is gone; %s of UID %s speaks for node %s",
				caller.ServiceAccount.Namespace, caller.Pod, caller.PodUID, a.Name, a.UID, a.Node)
		}
	}
	return nil
}

// agent does not wait.
func (p *Placement) agent(uid string) (Agent, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, found := p.agents[uid]
	return a, found
}

// wait asks found, with p.mu held, until it is true, or for some time.
func (p *Placement) wait(ctx context.Context, atMost time.Duration, found func() bool) bool {
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	for {
		p.mu.Lock()
		is, changed := found(), p.changed
		p.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
