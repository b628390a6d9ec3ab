// SPDX-License-Identifier: Apache-2.0

// Package cluster keeps a CA in a Kubernetes cluster: its root and issuer in a
// Secret that all replicas share, and the root where nodes find it, in a ConfigMap
// and, if that is asked for, in a ClusterTrustBundle.
//
//	object.go   one object of the API server: how it is asked for and followed
//	secret.go   the ca.Store of a Secret, which never makes a second root
//	roots.go    what the text in which nodes find roots should be
//	publish.go  keeps the root in such a text
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
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// Options says where a CA is kept.
type Options struct {
	API         *rest.Config // required
	CA          *ca.CA       // required
	Secret      string       // namespace/name of root and issuer; none: the CA is open already
	ConfigMap   string       // namespace/name that nodes have the root from; required
	TrustBundle string       // name of a ClusterTrustBundle that gets the root too; none
	Log         *slog.Logger // discards
}

// Keeper keeps one replica's CA.
type Keeper struct {
	log    *slog.Logger
	ca     *ca.CA
	secret *secret // nil: the CA is kept elsewhere
	roots  []*published

	mu      sync.Mutex // guards what follows
	waiting map[fmt.Stringer]error
	events  map[string]uint64
}

// What happens to a CA that is kept in a cluster, as Events counts it.
const (
	issuerTaken    = "issuer_taken"    // another issuer was put into the Secret, and signs
	issuerRefused  = "issuer_refused"  // the Secret got a content that is no CA to take
	rootPublished  = "root_published"  // the root was missing where nodes find it
	secretRestored = "secret_restored" // the Secret was deleted, and made again
)

var errNotAsked = errors.New("the API server has not answered yet")

// New returns a Keeper that has asked nothing yet.
func New(o Options) (*Keeper, error) {
	client, err := dynamic.NewForConfig(o.API)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", o.API.Host, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{log: o.Log, ca: o.CA, waiting: map[fmt.Stringer]error{},
		events: map[string]uint64{issuerTaken: 0, issuerRefused: 0, rootPublished: 0, secretRestored: 0}}
	k.roots = append(k.roots, &published{object: newObject(client, configMaps, o.ConfigMap), path: []string{"data", ca.RootFile}})
	if o.TrustBundle != "" {
		k.roots = append(k.roots, &published{object: newObject(client, trustBundles, o.TrustBundle), path: []string{"spec", "trustBundle"}})
	}
	for _, p := range k.roots {
		k.waiting[p] = errNotAsked
	}
	if o.Secret != "" {
		k.secret = &secret{object: newObject(client, secrets, o.Secret), traces: k.roots}
		k.waiting[k.secret] = errNotAsked
	}
	return k, nil
}

// Waiting is why this replica may not serve yet, or nil. What has been well once is
// not asked for again: a replica serves on while the API server is away.
func (k *Keeper) Waiting() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var problems []string
	if err := k.waiting[k.secret]; k.secret != nil && err != nil {
		problems = append(problems, fmt.Sprintf("%v: %v", k.secret, err))
	}
	for _, p := range k.roots {
		if err := k.waiting[p]; err != nil {
			problems = append(problems, fmt.Sprintf("%v: %v", p, err))
		}
	}
	if problems == nil {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

// Events returns how often what happened since the start.
func (k *Keeper) Events() map[string]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.events)
}

func (k *Keeper) count(event string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events[event]++
}

// Run opens the CA, publishes its root, and then follows what others do to either,
// until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if k.secret != nil {
		k.open(ctx)
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	if ctx.Err() != nil {
		return nil
	}
	for _, p := range k.roots {
		parts.Go(func() { p.follow(ctx, k.told(p, func(ctx context.Context) error { return k.publish(ctx, p) })) })
	}
	if k.secret != nil {
		parts.Go(func() { k.secret.follow(ctx, k.told(k.secret, k.reload)) })
	}
	return nil
}

// open asks until the CA is open: the API server may be away, and an operator may
// mend a Secret that is refused.
func (k *Keeper) open(ctx context.Context) {
	load := k.told(k.secret, func(ctx context.Context) error { return k.ca.Load(ctx, k.secret) })
	for pause := firstPause; load(ctx) != nil && ctx.Err() == nil; pause = longer(pause) {
		sleep(ctx, pause)
	}
	if issuer := k.ca.Issuer(); issuer != nil {
		k.log.Info("certificate authority is open", logObject, k.secret.String(),
			logRootUntil, k.ca.Roots()[0].NotAfter, logIssuerUntil, issuer.NotAfter)
	}
}

// told returns look with its end noted: each new problem with the object is logged
// once, and so is its end.
func (k *Keeper) told(object fmt.Stringer, look func(context.Context) error) func(context.Context) error {
	last := ""
	return func(ctx context.Context) error {
		timed, stop := context.WithTimeout(ctx, lookFor)
		err := look(timed)
		stop()
		if ctx.Err() != nil {
			return err
		}
		k.mu.Lock()
		if k.waiting[object] != nil {
			k.waiting[object] = err
		}
		k.mu.Unlock()
		switch {
		case err == nil && last != "":
			last = ""
			k.log.Info("the object is well again", logObject, object.String())
		case err != nil && err.Error() != last:
			last = err.Error()
			level := slog.LevelError
			if errors.Is(err, errAPI) {
				level = slog.LevelWarn
			}
			k.log.Log(ctx, level, "the object is not as the CA needs it; what is in force stays", logObject, object.String(), logError, last)
		}
		return err
	}
}

// reload takes what the Secret holds now.
func (k *Keeper) reload(ctx context.Context) error {
	files, err := k.secret.stored(ctx)
	if err != nil {
		return err
	}
	if files == nil {
		return k.restore(ctx)
	}
	k.secret.gone = time.Time{}
	changed, err := k.ca.Take(files)
	switch {
	case err != nil && k.secret.refuse(files):
		k.count(issuerRefused)
	case changed:
		k.count(issuerTaken)
		issuer := k.ca.Issuer()
		k.log.Info("another issuer signs", logObject, k.secret.String(), logSerial, issuer.SerialNumber.Text(16), logIssuerUntil, issuer.NotAfter)
	}
	if err == nil {
		k.secret.good = files
	}
	return err
}
