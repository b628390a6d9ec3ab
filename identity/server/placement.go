// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity"
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

// Running says that a pod of a ServiceAccount, which the mesh carries, runs on
// a node.
type Running struct {
	Node           string
	ServiceAccount identity.ServiceAccount
}

// Agent is a pod that speaks for its node, or would, as it is now.
type Agent struct {
	UID, Name      string
	ServiceAccount identity.ServiceAccount
	Node           string
	Addrs          []netip.Addr // where its requests come from, unless they are translated
}

// Placement is what runs where, by the CA's own source: a node's word is not
// enough, or root on one node could have every identity.
type Placement struct {
	// Ask asks the API server what runs on a node of a ServiceAccount, now, before the
	// answer is no; none. It is set before the first request.
	Ask func(ctx context.Context, node string, sa identity.ServiceAccount) (running bool, agents []Agent, err error)

	// Trouble is why the source cannot tell, empty if it can; none. It is set before
	// the first request.
	Trouble func() string

	asks *limits

	mu      sync.Mutex // guards what follows
	running map[Running]struct{}
	agents  map[string]Agent // by UID
	changed chan struct{}    // closed by the next Replace
}

// NewPlacement returns one that knows of nothing yet.
func NewPlacement() *Placement {
	return &Placement{asks: newLimits(nodeQuestions.PerSecond, int(nodeQuestions.Burst)), changed: make(chan struct{})}
}

// Replace takes over the full picture.
func (p *Placement) Replace(running []Running, agents []Agent) {
	set := make(map[Running]struct{}, len(running))
	for _, r := range running {
		set[r] = struct{}{}
	}
	byUID := make(map[string]Agent, len(agents))
	for _, a := range agents {
		byUID[a.UID] = a
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.agents = set, byUID
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

// RunsOn reports whether a pod of sa runs on node. Before it says no, it asks the API
// server, or, where there is none, waits a moment for the source. An error is that of
// the API server, or errAskedTooOften.
func (p *Placement) RunsOn(ctx context.Context, node string, sa identity.ServiceAccount) (bool, error) {
	found := func() bool {
		_, found := p.running[Running{node, sa}]
		return found
	}
	if p.wait(ctx, p.patience(), found) {
		return true, nil
	}
	running, _, asked, err := p.ask(ctx, node, sa)
	if !asked {
		if p.wait(ctx, catchUp-p.patience(), found) {
			return true, nil
		}
		return false, err
	}
	return running, err
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
func (p *Placement) ask(ctx context.Context, node string, sa identity.ServiceAccount) (running bool, agents []Agent, asked bool, err error) {
	if p.Ask == nil || !p.Synced() {
		return false, nil, false, nil
	}
	release, ok := p.asks.take(node)
	if !ok {
		return false, nil, false, errAskedTooOften
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	running, agents, err = p.Ask(ctx, node, sa)
	return running, agents, true, err
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
