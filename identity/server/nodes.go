// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

const (
	// nodeFresh is how long the UID of a Node counts without asking again. The pods of a
	// Node that was deleted go by themselves, and are asked about each time.
	nodeFresh = 5 * time.Minute
	// forbiddenFresh is how long it counts without asking again that the CA may not ask.
	forbiddenFresh = time.Minute
	// maxNodes bounds the Nodes that are remembered. Their names are vouched for.
	maxNodes = 16384
)

// forbiddenLines bounds the log lines which say that the CA may not ask for Nodes.
var forbiddenLines = rate.Limit{PerSecond: 1 / forbiddenFresh.Seconds(), Burst: 1}

// nodes are the UIDs of Nodes, as the API server said them.
type nodes struct {
	mu    sync.Mutex // guards what follows
	known map[string]knownNode
	lines rate.Left // of forbiddenLines
}

// knownNode is what the API server said last.
type knownNode struct {
	uid       string
	forbidden bool // the CA may not ask: any UID counts
	at        time.Time
}

// counts reports whether a token of that UID is good, by what was said within age.
func (k knownNode) counts(uid string, age time.Duration) bool {
	return (k.forbidden || k.uid == uid) && time.Since(k.at) < age
}

func newNodes() *nodes { return &nodes{known: make(map[string]knownNode)} }

// isFresh reports whether the Node has that UID by an answer that is not asked for again.
func (n *nodes) isFresh(name, uid string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.known[name]
	if k.forbidden {
		return k.counts(uid, forbiddenFresh)
	}
	return k.counts(uid, nodeFresh)
}

// has reports whether the Node had that UID within age.
func (n *nodes) has(name, uid string, age time.Duration) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[name].counts(uid, age)
}

func (n *nodes) put(name, uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.putLocked(name, knownNode{uid: uid, at: time.Now()})
}

// putForbidden keeps that the CA may not ask for the Node. It reports whether a log line
// about that is due.
func (n *nodes) putForbidden(name string) (due bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.putLocked(name, knownNode{forbidden: true, at: time.Now()})
	return n.lines.Spend(forbiddenLines)
}

// putLocked keeps what the API server said. Of too many, any goes.
func (n *nodes) putLocked(name string, k knownNode) {
	if _, known := n.known[name]; !known && len(n.known) >= maxNodes {
		for other := range n.known {
			delete(n.known, other)
			break
		}
	}
	n.known[name] = k
}

func (n *nodes) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.known, name)
}

// sameNode refuses a caller whose token is of another Node than the one that has its name
// now: a machine that was taken out of the cluster, and whose name was given again. A token
// that does not say its node's UID is known by the name. While the API server is away, what
// it said counts for an hour, as for tokens.
//
// If the API server forbids the question, the name decides, too: a CA that was upgraded
// before its rights would otherwise refuse every node. An operator is told.
func (p *Placement) sameNode(ctx context.Context, caller Caller) error {
	if p.AskNode == nil || caller.NodeUID == "" || p.nodes.isFresh(caller.Node, caller.NodeUID) {
		return nil
	}
	uid, found, err := p.askNode(ctx, caller.Node)
	switch {
	case apierrors.IsForbidden(err):
		if p.nodes.putForbidden(caller.Node) {
			cmp.Or(p.Log, slog.Default()).Error("the CA may not get Nodes: tokens are taken by the names of their nodes, "+
				"also those of a former node of the same name; give its ServiceAccount the verb get on nodes", logError, err)
		}
		return nil
	case err != nil && p.nodes.has(caller.Node, caller.NodeUID, proofStale):
		return nil
	case errors.Is(err, errAskedTooOften):
		return unavailable(identityv1.Reason_TOO_MANY_REQUESTS, "the CA does not know the UID of the token's node: %v", err)
	case err != nil:
		return unavailable(identityv1.Reason_API_UNAVAILABLE, "ask the API server for the UID of the token's node: %v", err)
	case !found:
		p.nodes.forget(caller.Node)
		return refused(identityv1.Reason_TOKEN_NODE_DIFFERS, "the token's node, %s of UID %s, is gone", caller.Node, caller.NodeUID)
	}
	p.nodes.put(caller.Node, uid)
	if uid != caller.NodeUID {
		return refused(identityv1.Reason_TOKEN_NODE_DIFFERS, "the token is of a node %s of UID %s; the one of that name has the UID %s", caller.Node, caller.NodeUID, uid)
	}
	return nil
}

// askNode asks the API server, unless the node has had it asked too often.
func (p *Placement) askNode(ctx context.Context, name string) (uid string, found bool, err error) {
	release, _, ok := p.asks.take(name)
	if !ok {
		return "", false, errAskedTooOften
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	return p.AskNode(ctx, name)
}
