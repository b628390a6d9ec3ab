// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// How long is waited before an object is looked at again: after a failure, longer
// from one to the next, and at most lookEvery if nothing seems to happen to it.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
	lookEvery  = time.Minute
	leastPause = 500 * time.Millisecond // so that a fight with another hand stays slow
	lookFor    = 10 * time.Second       // a look that takes longer has failed
)

// managedBy is the label of what Culvert made, with component as its value.
const managedBy = "app.kubernetes.io/managed-by"

// resource is a kind of object, in the versions of its API, the best first.
type resource struct {
	kind     string
	versions []schema.GroupVersionResource
}

var (
	secrets    = resource{"Secret", []schema.GroupVersionResource{{Version: "v1", Resource: "secrets"}}}
	configMaps = resource{"ConfigMap", []schema.GroupVersionResource{{Version: "v1", Resource: "configmaps"}}}
	// v1 since Kubernetes 1.37, v1beta1 since 1.33 where a feature gate is on.
	trustBundles = resource{"ClusterTrustBundle", []schema.GroupVersionResource{
		{Group: "certificates.k8s.io", Version: "v1", Resource: "clustertrustbundles"},
		{Group: "certificates.k8s.io", Version: "v1beta1", Resource: "clustertrustbundles"},
	}}
)

// object is one object of the API server, there or not.
type object struct {
	resource
	namespace, name string
	clients         []dynamic.ResourceInterface // one for each version
}

// newObject takes namespace/name, or the name alone of what has no namespace.
func newObject(client dynamic.Interface, r resource, name string) object {
	o := object{resource: r, name: name}
	if namespace, name, namespaced := strings.Cut(name, "/"); namespaced {
		o.namespace, o.name = namespace, name
	}
	for _, version := range r.versions {
		o.clients = append(o.clients, client.Resource(version).Namespace(o.namespace))
	}
	return o
}

func (o *object) String() string {
	if o.namespace == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// served is the client of the best version that the API server has, or nil.
func (o *object) served(ctx context.Context) (dynamic.ResourceInterface, error) {
	if len(o.clients) == 1 {
		return o.clients[0], nil
	}
	for _, client := range o.clients {
		// A list tells a kind that is not served from an object that is not there.
		_, err := client.List(ctx, metav1.ListOptions{FieldSelector: o.alone(), Limit: 1})
		if err == nil || !apierrors.IsNotFound(err) {
			return client, err
		}
	}
	return nil, nil
}

// alone selects the object: a role may allow to list and watch it alone.
func (o *object) alone() string { return fields.OneTermEqualSelector("metadata.name", o.name).String() }

// get returns the object as it is now, or nil if it is not there.
func (o *object) get(ctx context.Context, client dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
	u, err := client.Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return u, err
}

// blank is the object before it is created.
func (o *object) blank(version int) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(o.versions[version].GroupVersion().WithKind(o.kind))
	u.SetNamespace(o.namespace)
	u.SetName(o.name)
	u.SetLabels(map[string]string{managedBy: component})
	return u
}

// watched returns what signals that the object may have changed, until ctx ends.
func (o *object) watched(ctx context.Context) signal {
	changed := make(signal, 1)
	for _, client := range o.clients {
		// Its end is not waited for: client-go may sleep on for seconds.
		go o.watch(client, changed).RunWithContext(klog.NewContext(ctx, klog.New(nil)))
	}
	return changed
}

// follow calls look now, whenever the object or what else look depends on may have
// changed, and every minute, until ctx ends; after a failure soon again.
func (o *object) follow(ctx context.Context, also func() <-chan struct{}, look func(context.Context) error) {
	changed := o.watched(ctx)
	for pause := firstPause; ctx.Err() == nil; {
		wait, other := lookEvery, also()
		if look(ctx) != nil {
			pause, wait = longer(pause), pause
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-other:
		case <-changed:
			sleep(ctx, leastPause)
		case <-time.After(jittered(wait)):
		}
	}
}

// watch returns a reflector that keeps nothing: it signals.
func (o *object) watch(client dynamic.ResourceInterface, changed signal) *cache.Reflector {
	alone := o.alone()
	quiet := klog.New(nil)
	return cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			l.FieldSelector = alone
			return client.List(ctx, l)
		},
		WatchFuncWithContext: func(ctx context.Context, l metav1.ListOptions) (watch.Interface, error) {
			l.FieldSelector = alone
			return client.Watch(ctx, l)
		},
	}, &unstructured.Unstructured{}, changed, cache.ReflectorOptions{Logger: &quiet, Name: o.String()})
}

// signal is a reflector's store. It holds one: something may have changed.
type signal chan struct{}

func (s signal) give() error {
	select {
	case s <- struct{}{}:
	default:
	}
	return nil
}

// Add, and what follows, is part of cache.ReflectorStore.
func (s signal) Add(any) error               { return s.give() }
func (s signal) Update(any) error            { return s.give() }
func (s signal) Delete(any) error            { return s.give() }
func (s signal) Replace([]any, string) error { return s.give() }
func (s signal) Resync() error               { return nil }

func longer(pause time.Duration) time.Duration { return min(2*pause, lastPause) }

// jittered is d and up to half as much more: replicas need not ask together.
func jittered(d time.Duration) time.Duration { return d + rand.N(d/2) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(jittered(d)):
	}
}

// unanswered is what the API server, or the way to it, is the reason of.
type unanswered struct{ err error }

func (u unanswered) Error() string   { return "the API server: " + u.err.Error() }
func (u unanswered) Unwrap() []error { return []error{ca.ErrUnreachable, u.err} }

func noAnswer(err error) error { return unanswered{err} }
