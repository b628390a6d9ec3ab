// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// kind is one kind of object. To its reflector it is both the API server, which
// it asks, and the store, which it fills.
type kind struct {
	source.Kind
	source     *Source
	example    runtime.Object
	optional   bool                                     // the API server need not serve it
	decides    bool                                     // it means what the builder counts as a decision, and nothing else
	understand func(runtime.Object) (understood, error) // what comes from the API server
	versions   []*cache.ListWatch                       // of the API, the best first

	// Only the reflector's goroutine uses these.
	version int  // the one that is served
	fresh   bool // was listed, but not by a stream, and not watched since

	// Guarded by source.mu.
	listed bool                   // once, or found not to be served
	wrong  map[source.Name]string // what is, with an object
}

// understood is an object, what is strange about it although it can be used, and what of it
// is not enforced as it was written, but by less.
type understood struct {
	source.Object
	strange, narrower string
}

// reflector returns one that waits at most 10 to 20 seconds between two attempts, and not
// for any once ctx ends.
func (k *kind) reflector(ctx context.Context) *cache.Reflector {
	quiet := klog.New(nil)
	return cache.NewReflectorWithOptions(k, k.example, k, cache.ReflectorOptions{
		Logger: &quiet, Name: string(k.Kind), Clock: endingClock{ctx: ctx},
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 7, Cap: 10 * time.Second},
	})
}

// List is for clients without contexts, and not called.
func (k *kind) List(o metav1.ListOptions) (runtime.Object, error) {
	return k.ListWithContext(context.Background(), o)
}

// Watch is for clients without contexts, and not called.
func (k *kind) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return k.WatchWithContext(context.Background(), o)
}

// ListWithContext asks for all objects, in the best version of the API that is served.
func (k *kind) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list, err := k.versions[k.version].ListWithContext(ctx, o)
	for i := 0; apierrors.IsNotFound(err) && i < len(k.versions); i++ {
		k.version = i
		list, err = k.versions[i].ListWithContext(ctx, o)
	}
	k.fresh = err == nil
	if apierrors.IsNotFound(err) && k.optional {
		k.source.notServed(k)
	} else {
		k.source.answered(k, err)
	}
	return list, err
}

// WatchWithContext asks for changes, and, if the reflector wants to list that way,
// for all objects first.
func (k *kind) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	listing := o.SendInitialEvents != nil
	if !listing && !k.fresh {
		if err := k.lookBack(ctx, o.ResourceVersion); err != nil {
			k.source.answered(k, err)
			return nil, err
		}
	}
	k.fresh = false
	w, err := k.versions[k.version].WatchWithContext(ctx, o)
	if status := apierrors.APIStatus(nil); listing && errors.As(err, &status) && !apierrors.IsTooManyRequests(err) {
		return w, err // the reflector lists in the other way, and that tells
	}
	k.source.answered(k, err)
	return w, err
}

// lookBack finds an API server that is older than what was seen of it, as after a
// restore of etcd. It would let a watch wait, silently, until it is as far again;
// so the watch fails as if what was seen had expired, and all is listed anew.
func (k *kind) lookBack(ctx context.Context, seen string) error {
	list, err := k.versions[k.version].ListWithContext(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	order, err := resourceversion.CompareResourceVersion(m.GetResourceVersion(), seen)
	if err != nil || order >= 0 {
		return nil // or it has versions that cannot be compared
	}
	return apierrors.NewResourceExpired(fmt.Sprintf("the API server went back from resource version %s to %s", seen, m.GetResourceVersion()))
}

// Add takes an object that is new.
func (k *kind) Add(o any) error { return k.Update(o) }

// Update takes an object that has changed.
func (k *kind) Update(o any) error {
	k.source.mu.Lock()
	defer k.source.mu.Unlock()
	decisions := k.source.builder.Decisions()
	k.set(o)
	if !k.decides || k.source.builder.Decisions() != decisions {
		k.source.touch()
	}
	return nil
}

// Delete takes an object that is gone.
func (k *kind) Delete(o any) error {
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	k.source.mu.Lock()
	defer k.source.mu.Unlock()
	k.remove(source.Name{Namespace: m.GetNamespace(), Name: m.GetName()})
	k.source.touch()
	return nil
}

// Replace takes a list of all objects: others are gone.
func (k *kind) Replace(list []any, _ string) error {
	k.source.mu.Lock()
	defer k.source.mu.Unlock()
	present := make(map[source.Name]bool, len(list))
	for _, o := range list {
		present[k.set(o)] = true
	}
	for _, name := range k.known() {
		if !present[name] {
			k.remove(name)
		}
	}
	k.listed = true
	k.source.touch()
	return nil
}

// known returns the names of all objects of the kind; mu is held. The builder does not
// have each of which something is wrong.
func (k *kind) known() []source.Name {
	return slices.AppendSeq(slices.Collect(maps.Keys(k.wrong)), k.source.builder.Names(k.Kind))
}

// Resync has nothing to do.
func (k *kind) Resync() error { return nil }

// Transformer trims what the reflector holds while it lists.
func (k *kind) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if o, ok := o.(source.Object); ok {
			return trim(o), nil
		}
		return o, nil
	}
}

// set gives an object to the builder; mu is held.
func (k *kind) set(o any) source.Name {
	m, err := meta.Accessor(o)
	if err != nil {
		return source.Name{} // no object; a reflector does not let it pass
	}
	name := source.Name{Namespace: m.GetNamespace(), Name: m.GetName()}
	object, err := k.understand(o.(runtime.Object))
	k.source.noteOwn(object.Object)
	if err != nil {
		k.source.builder.Distrust(object.Object)
	} else {
		err = k.source.builder.Set(object.Object)
	}
	wrong := object.strange
	if err != nil {
		wrong = err.Error()
	}
	inForce := wrong == ""
	if inForce {
		wrong = object.narrower
	}
	if wrong != k.wrong[name] {
		k.source.say(k, name, wrong, inForce)
	}
	if k.wrong[name] = wrong; wrong == "" {
		delete(k.wrong, name)
	}
	return name
}

// remove takes an object from the builder; mu is held.
func (k *kind) remove(name source.Name) {
	if k.wrong[name] != "" {
		k.source.say(k, name, "", true)
	}
	delete(k.wrong, name)
	k.source.forgetOwn(k.Kind, name)
	k.source.builder.Delete(k.Kind, name)
}
