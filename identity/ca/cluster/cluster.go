// SPDX-License-Identifier: Apache-2.0

// Package cluster keeps a CA in a Kubernetes cluster: its root and issuer in a
// Secret that all replicas share, and the roots where nodes find them, in a ConfigMap
// and, if that is asked for, in a ClusterTrustBundle.
//
//	object.go   one object of the API server: how it is asked for and followed
//	secret.go   the ca.Store of a Secret, which never makes a second root
//	record.go   the bundle's generation, in an annotation
//	roots.go    what the text in which nodes find roots should be
//	publish.go  keeps the roots in such a text
//	report.go   Kubernetes Events
//	board.go    what replicas tell each other while the root is re-keyed
//	texts.go    a ConfigMap of texts, each of which one replica puts
//	cluster.go  what a replica does from start to end, and what it waits for
//
// A root is published only after the Secret that holds its CA was stored. So a root
// that is found without a Secret is the trace of a CA that is gone, and a start is
// refused until somebody decides.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// Options says where a CA is kept.
type Options struct {
	API         *rest.Config // required
	CA          *ca.CA       // required
	Secret      string       // namespace/name of root and issuer; none: the CA is kept elsewhere
	ConfigMap   string       // namespace/name that nodes have the roots from; required
	TrustBundle string       // name of a ClusterTrustBundle that gets the roots too; none
	Log         *slog.Logger // discards
}

// Publisher is one replica's part in the cluster: it publishes its CA's roots, and
// tells Kubernetes' users what happens to the CA.
type Publisher struct {
	log    *slog.Logger
	ca     *ca.CA
	secret *secret // nil: the CA is kept elsewhere
	roots  []*published
	told   chan ca.Event
	events events

	mu      sync.Mutex // guards what follows
	waiting map[*published]error
	counts  map[string]uint64
}

// What Events counts beside what a ca.Keeper does.
const (
	rootPublished = "RootPublished" // a root was missing where nodes find it, or one was there that is dropped
	eventLost     = "EventLost"     // a Kubernetes Event could not be written
)

var errNotAsked = errors.New("the API server has not answered yet")

// New returns a Publisher that has asked nothing yet.
func New(o Options) (*Publisher, error) {
	client, err := dynamic.NewForConfig(o.API)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", o.API.Host, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{log: o.Log, ca: o.CA, told: make(chan ca.Event, 64),
		waiting: map[*published]error{}, counts: map[string]uint64{rootPublished: 0, eventLost: 0}}
	p.roots = append(p.roots, &published{object: newObject(client, configMaps, o.ConfigMap), path: []string{"data", ca.RootFile}})
	if o.TrustBundle != "" {
		p.roots = append(p.roots, &published{object: newObject(client, trustBundles, o.TrustBundle), path: []string{"spec", "trustBundle"}})
	}
	for _, published := range p.roots {
		p.waiting[published] = errNotAsked
	}
	p.events = events{client: client, about: p.roots[0].object}
	if o.Secret != "" {
		p.secret = &secret{object: newObject(client, secrets, o.Secret), traces: p.roots}
		p.events.about = p.secret.object
	}
	return p, nil
}

// Store is the Secret, as the one place of the CA. Each is for one goroutine at a time.
func (p *Publisher) Store() ca.Store {
	return &secret{object: p.secret.object, traces: p.secret.traces}
}

// Waiting is why nodes may not find the roots yet, or nil. What has been well once is
// not asked for again: a replica serves on while the API server is away.
func (p *Publisher) Waiting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []string
	for _, published := range p.roots {
		if err := p.waiting[published]; err != nil {
			problems = append(problems, fmt.Sprintf("%v: %v", published, err))
		}
	}
	if problems == nil {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

// Events returns how often what happened since the start.
func (p *Publisher) Events() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *Publisher) count(event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[event]++
}

// Run waits until the CA is open, publishes its roots, and then follows what the CA
// gets and what others do to what is published, until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { p.report(ctx) })
	for changed := p.ca.Changed(); !p.open(); changed = p.ca.Changed() {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	for _, published := range p.roots {
		look := p.noted(published, func(ctx context.Context) error { return p.publish(ctx, published) })
		parts.Go(func() { published.follow(ctx, p.ca.Changed, look) })
	}
	return nil
}

func (p *Publisher) open() bool {
	generation, _ := p.ca.Bundle()
	return generation > 0
}

// noted returns look with its end noted: each new problem with the object is logged
// once, and so is its end.
func (p *Publisher) noted(object *published, look func(context.Context) error) func(context.Context) error {
	last := ""
	return func(ctx context.Context) error {
		timed, stop := context.WithTimeout(ctx, lookFor)
		err := look(timed)
		stop()
		if ctx.Err() != nil {
			return err
		}
		p.mu.Lock()
		if p.waiting[object] != nil {
			p.waiting[object] = err
		}
		p.mu.Unlock()
		switch {
		case err == nil && last != "":
			last = ""
			p.log.Info("the object is well again", logObject, object.String())
		case err != nil && err.Error() != last:
			last = err.Error()
			level := slog.LevelError
			if errors.Is(err, ca.ErrUnreachable) {
				level = slog.LevelWarn
			}
			p.log.Log(ctx, level, "the object is not as the CA needs it; what is in force stays", logObject, object.String(), logError, last)
		}
		return err
	}
}
