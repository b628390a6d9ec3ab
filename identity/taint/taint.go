// SPDX-License-Identifier: Apache-2.0

// Package taint keeps new pods off a node whose ztunnel is away: it puts the taint back
// on the Node that ztunnel takes off when it is ready. ztunnel cannot do that itself.
//
//	taint.go   what is looked at, and how many nodes may have the taint
//	node.go    what is known of one node's ztunnel
//	follow.go  Nodes and ztunnel's pods, as the API server tells them
//	put.go     what is asked again before a Node is written to
//
// A taint on each node would stop all scheduling, so doubt never leads to one. No node
// gets it while a watch is broken; nor one whose ztunnel was not seen ready by this
// process, which has the taint by its own if its owner wants it; nor one that has no
// ztunnel's pod, where nobody may want one any more; nor one that is not Ready, which
// Kubernetes taints itself; nor more than a third of all nodes.
//
// Replicas need no leader: they choose the same node, and the resource version lets one
// of them write.
package taint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity"
)

const (
	// lookEvery is how often all nodes are looked at, and one gets the taint at most.
	lookEvery = 5 * time.Second
	// One node of nodesForOne may have the taint, or one in all.
	nodesForOne = 3
	// lateFor is how long a taint that was put counts though the watch has not told it.
	lateFor = time.Minute
	// answerWithin is how long one node may take to be asked about and written to.
	answerWithin = 5 * time.Second
)

// Options says which nodes get which taint.
type Options struct {
	API      *rest.Config              // required
	Key      string                    // of the taint, whose effect is NoSchedule; required
	After    time.Duration             // that a ztunnel is away; required
	Accounts []identity.ServiceAccount // of ztunnel's pods; required
	Log      *slog.Logger              // discards
}

// Watch watches the nodes of a cluster.
type Watch struct {
	Options
	client rest.Interface
	nodes  *followed
	pods   []*followed // of each account

	known map[string]*node // by name
	blind bool             // a watch is broken, and it was said
	full  bool             // no more nodes may have the taint, and it was said
}

// New returns a Watch that has asked nothing yet.
func New(o Options) (*Watch, error) {
	var problems []error
	for what, missing := range map[string]bool{"API": o.API == nil, "Key": o.Key == "", "After": o.After <= 0, "Accounts": len(o.Accounts) == 0} {
		if missing {
			problems = append(problems, fmt.Errorf("%s is required", what))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	client, err := newClient(o.API)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", o.API.Host, err)
	}
	w := &Watch{Options: o, client: client, nodes: followNodes(client), known: map[string]*node{}}
	for _, account := range o.Accounts {
		w.pods = append(w.pods, followPods(client, account))
	}
	return w, nil
}

// Run puts the taint where it is due until ctx ends; then it returns nil.
func (w *Watch) Run(ctx context.Context) error {
	for _, f := range append(w.pods, w.nodes) {
		f.start(ctx)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			w.look(ctx, now)
		case <-ctx.Done():
			return nil
		}
	}
}

// look has one node at most get the taint.
func (w *Watch) look(ctx context.Context, now time.Time) {
	if !w.sees(now) {
		return
	}
	objects := w.nodes.store.List()
	has, due := w.review(objects, now)
	full := has >= max(1, len(objects)/nodesForOne)
	if full && len(due) > 0 && !w.full {
		w.Log.Warn("the ztunnels of further nodes are away, and as many nodes have the taint as may have it", logTaint, w.Key,
			logTainted, has, logNodes, len(objects), logAway, len(due))
	}
	if w.full = full && len(due) > 0; full || len(due) == 0 {
		return
	}
	name := due[0]
	n := w.known[name]
	switch put, err := w.put(ctx, name); {
	case err != nil:
		w.Log.Warn("the node of a ztunnel that is away does not get the taint", logTaint, w.Key, logNode, name, logError, err)
		n.since = now // others come first
	case put:
		w.Log.Warn("the node's ztunnel is away: the node gets the taint", logTaint, w.Key, logNode, name, logFor, now.Sub(n.since).Round(time.Second))
		n.put = now
	default:
		n.since = now // the watch is late
	}
}

// sees reports whether all watches tell how things are. How long a ztunnel is away is
// counted anew once they do: it may have been ready meanwhile.
func (w *Watch) sees(now time.Time) bool {
	sound := !slices.ContainsFunc(append(w.pods, w.nodes), func(f *followed) bool { return !f.sound() })
	switch {
	case !sound && !w.blind:
		w.Log.Warn("no node gets the taint while the API server does not tell of Nodes and ztunnel's pods", logTaint, w.Key)
	case sound && w.blind:
		w.Log.Info("the API server tells of Nodes and ztunnel's pods", logTaint, w.Key)
		for _, n := range w.known {
			n.since = now
		}
	}
	w.blind = !sound
	return sound
}

// review takes it how each node's ztunnel is. It returns how many nodes have the taint,
// and the names of those that are to get it, in order.
func (w *Watch) review(objects []any, now time.Time) (has int, due []string) {
	ztunnels := w.ztunnels()
	before := w.known
	w.known = make(map[string]*node, len(objects))
	for _, o := range objects {
		o := o.(*corev1.Node)
		n := before[o.Name]
		if n == nil || n.uid != o.UID {
			n = &node{uid: o.UID}
		}
		w.known[o.Name] = n
		n.see(ztunnels[o.Name], now)
		switch {
		case w.tainted(o), !n.put.IsZero() && now.Sub(n.put) < lateFor:
			has++
		case n.state == away && now.Sub(n.since) >= w.After && able(o):
			due = append(due, o.Name)
		}
	}
	slices.Sort(due)
	return has, due
}
