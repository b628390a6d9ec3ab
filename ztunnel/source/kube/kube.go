// SPDX-License-Identifier: Apache-2.0

// Package kube is the source that watches a Kubernetes API server.
//
// One reflector of client-go for each kind lists and watches; what it sees goes
// straight into a source.Builder, so that no object is kept beside what it means:
//
//	client.go    which kinds, and how the API server is asked for them
//	clock.go     the end of what would sleep on
//	kind.go      one kind: what a reflector puts into the builder, and what is
//	             asked when a watch breaks or the API server went back in time
//	trim.go      what is kept of an object
//	policies.go  policies, which are read more strictly; Istio's may come later or never
//	health.go    what is wrong now, said once
//	ask.go       what is asked now, for whoever cannot wait for a watch
//	cidrs.go     whether the CIDRs of the mesh can be meant
//	own.go       what is shown of the own node and its pods
//	state.go     the last good state in a file, for a start without API server
//
// The first snapshot waits until every kind was listed. If the API server does not
// answer, it is the one of the state file, and the next again waits for all kinds.
// After that each kind follows its own watch; while one is broken, its last good
// state stays in force. A kind that is not served says nothing about its objects:
// those that are known stay.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// Options is how an API server is watched.
type Options struct {
	Kubeconfig string         // a file, or InCluster; required
	Build      source.Options // how objects are read; TrustDomain is required
	MeshCIDRs  []netip.Prefix // that are known beside those of Nodes and ServiceCIDRs; none
	// PlacementOnly: only what decides which pods of the mesh run where, and for how long
	// they get certificates: Namespaces, Pods, RuntimeClasses and ServiceAccounts, and, with
	// Build.Selectors, Services. Snapshots then have no CIDRs, and no pods that name no
	// ServiceAccount: only the mirrors of static pods do not, and a node may make those
	// in any namespace. false
	PlacementOnly bool
	Node          string       // of which Own tells; none
	State         string       // file for the last good state; none: it is not kept
	OnError       func(error)  // each new problem, when Log has it, not to block; none
	Log           *slog.Logger // discards
}

// InCluster as Options.Kubeconfig is the ServiceAccount of the pod that this runs in.
const InCluster = "in-cluster"

const (
	// settle is how long a change waits for others to share a snapshot with.
	settle = 10 * time.Millisecond
	// After a snapshot that took a moment, breather moments pass before the next, so
	// that snapshots cost 2 % of a core however fast the cluster changes; but at least
	// leastPause and, since what changed meanwhile is not known yet, at most mostPause.
	breather   = 50
	leastPause = 50 * time.Millisecond
	mostPause  = 250 * time.Millisecond
	// answerWithin is how long the API server may be silent at start before the
	// state file is taken.
	answerWithin = 5 * time.Second
	// endWithin is how long requests may go on once the source ends.
	endWithin = 2 * time.Second
	// saveEvery is how old the state file may be. If it is large it is written more
	// seldom: savedASecond is how many bytes, and 1/saveShare of the time, that takes.
	saveEvery    = 10 * time.Second
	savedASecond = 100 << 10
	saveShare    = 200
	// saveSoon is how old it may be if pods came into the mesh or left it, or a policy
	// changed, since. If it is large, that takes 1/soonShare of the time.
	saveSoon  = time.Second
	soonShare = 20
)

// Source watches one API server.
type Source struct {
	options Options
	server  string       // its URL
	client  *http.Client // of all kinds
	clients map[schema.GroupVersion]rest.Interface
	kinds   []*kind
	poked   chan struct{} // something changed; holds one
	poised  time.Time     // when the state file may be written again for decisions; only Run's
	rested  time.Time     // and for anything; only Run's

	mu      sync.Mutex // guards all that follows, and what is wrong in the kinds
	builder *source.Builder
	live    bool   // there was a snapshot of what the API server says
	dirty   bool   // since the last snapshot
	unsaved bool   // since the state file was written
	decided uint64 // decisions of the builder that were written, or tried to be
	stored  *state
	health  health
	stats   source.Stats

	ownPods   map[source.Name]OwnPod
	ownTaints []corev1.Taint
}

var _ source.Source = (*Source)(nil)

// New returns a source that watches the API server of a kubeconfig. An error says
// what is wrong with that; the API server is not asked before Run.
func New(o Options) (*Source, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	o.Build.AccountsOnly = o.Build.AccountsOnly || o.PlacementOnly
	s := &Source{options: o, poked: make(chan struct{}, 1), builder: source.NewBuilder(o.Build), health: newHealth(),
		ownPods: map[source.Name]OwnPod{}}
	config, err := ClientConfig(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	s.server = config.Host
	if s.client, err = rest.HTTPClientFor(config); err != nil {
		return nil, fmt.Errorf("client of %s: %v", config.Host, err)
	}
	s.kinds, err = s.newKinds(config)
	return s, err
}

// Stats returns the counts of this moment.
func (s *Source) Stats() source.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Objects = 0
	for _, k := range s.kinds {
		out.Objects += s.builder.Len(k.Kind)
	}
	out.LastError, out.Old = s.health.String(), s.health.old()
	return out
}

// Run delivers snapshots until ctx ends; then it returns nil.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	s.load()
	quiet := klog.NewContext(ctx, klog.New(nil)) // what client-go would log about watches, health says once
	var watching sync.WaitGroup
	for _, k := range s.kinds {
		watching.Go(func() { k.reflector(ctx).RunWithContext(quiet) })
	}
	s.deliver(ctx, sink)
	s.end(&watching)
	return nil
}

// end waits for requests that are under way, but not long: a ztunnel that is replaced
// holds up the next.
func (s *Source) end(watching *sync.WaitGroup) {
	ended := make(chan struct{})
	go func() {
		watching.Wait()
		s.client.CloseIdleConnections()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endWithin):
		s.options.Log.Warn("requests to the API server do not end", logServer, s.server)
	}
}

// deliver turns changes into snapshots, no faster than they are cheap.
func (s *Source) deliver(ctx context.Context, sink source.Sink) {
	impatient := time.After(answerWithin)
	save := time.NewTicker(saveSoon)
	defer save.Stop()
	patient := true
	for {
		select {
		case <-ctx.Done():
			s.save()
			return
		case <-save.C:
			if s.maySave(time.Now()) {
				s.save()
			}
			continue
		case <-impatient:
			patient = false
		case <-s.poked:
			sleep(ctx, settle)
		}
		start := time.Now()
		if snapshot, due := s.next(patient); due {
			sink(snapshot)
			sleep(ctx, pauseAfter(time.Since(start)))
		}
	}
}

// pauseAfter is how long no other snapshot follows one that took so long.
func pauseAfter(took time.Duration) time.Duration {
	return min(max(leastPause, breather*took), mostPause)
}

// next returns the snapshot to deliver now, if one is due: of the objects, once
// all kinds were listed; before that, of the state file, once the API server
// failed to answer.
func (s *Source) next(patient bool) (source.Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var snapshot source.Snapshot
	switch {
	case s.listed():
		if !s.dirty {
			return snapshot, false
		}
		s.dirty = false
		snapshot = s.builder.Snapshot()
		if !s.live && !s.bounded(snapshot.Mesh) {
			return snapshot, false
		}
		s.live, s.unsaved, s.stored = true, true, nil
		s.stats.Stored = time.Time{}
	case s.stored != nil && s.stats.Generation == 0 && (!patient || s.health.failing()):
		snapshot = s.stored.snapshot()
		s.stats.Stored = s.stored.Written
		s.options.Log.Warn("the API server does not answer; workloads and policies are those of the state file",
			logServer, s.server, logWritten, s.stored.Written)
		s.stored = nil
	default:
		return snapshot, false
	}
	s.stats.Generation++
	s.stats.InForce = time.Now()
	snapshot.Version = s.stats.Generation
	s.options.Log.Debug("snapshot", logVersion, snapshot.Version, logWorkloads, len(snapshot.Mesh.Workloads))
	return snapshot, true
}

// listed reports whether all kinds were; mu is held.
func (s *Source) listed() bool {
	for _, k := range s.kinds {
		if !k.listed {
			return false
		}
	}
	return true
}

// poke has changes looked at. It may be called with mu held.
func (s *Source) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
