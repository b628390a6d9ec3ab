// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// pageSize is how many objects are in memory at once while all are listed.
const pageSize = 500

// followed is all objects of a kind, as the API server tells them. To its reflector it is
// both the API server, which it asks, and the store, which keeps nothing: note gets each
// object that is there, or has changed.
type followed struct {
	kind     source.Kind
	versions []dynamic.NamespaceableResourceInterface // of the API, the best first
	served   *atomic.Int32                            // which of them
	fresh    bool                                     // all were listed, and not watched since; only the reflector's
	note     func(*unstructured.Unstructured)
}

// start lists all objects and follows them until ctx ends. Nobody waits for the end: a
// reflector that waits before it asks again does not hear of it. So the next start has a
// followed of its own.
func (f followed) start(ctx context.Context) {
	quiet := klog.New(nil)
	r := cache.NewReflectorWithOptions(&f, &unstructured.Unstructured{}, &f, cache.ReflectorOptions{
		Logger: &quiet, Name: string(f.kind),
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 7, Cap: 10 * time.Second},
	})
	go r.RunWithContext(klog.NewContext(ctx, quiet))
}

// client is of the version that is served, as far as that is known.
func (f *followed) client() dynamic.NamespaceableResourceInterface {
	return f.versions[f.served.Load()]
}

// IsWatchListSemanticsUnSupported has the reflector list by pages, and not by a stream,
// of which it would hold all objects.
func (f *followed) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext asks for all objects, in the best version that is served, and notes them.
// It returns where a watch goes on, and no object.
func (f *followed) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	page := metav1.ListOptions{Limit: pageSize}
	list, err := f.client().List(ctx, page)
	for i := 0; apierrors.IsNotFound(err) && i < len(f.versions); i++ {
		f.served.Store(int32(i))
		list, err = f.client().List(ctx, page)
	}
	for err == nil {
		for i := range list.Items {
			f.note(&list.Items[i])
		}
		if page.Continue = list.GetContinue(); page.Continue == "" {
			list.Items, f.fresh = nil, true
			return list, nil
		}
		list, err = f.client().List(ctx, page)
	}
	return nil, err
}

// WatchWithContext asks for changes since all were listed. After a watch that has ended they
// are listed anew: the API server may have gone back in time, or a write been lost.
func (f *followed) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if !f.fresh {
		return nil, apierrors.NewResourceExpired("a watch has ended")
	}
	f.fresh = false
	return f.client().Watch(ctx, o)
}

// List is for clients without contexts, and not called.
func (f *followed) List(o metav1.ListOptions) (runtime.Object, error) {
	return f.ListWithContext(context.Background(), o)
}

// Watch is for clients without contexts, and not called.
func (f *followed) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return f.WatchWithContext(context.Background(), o)
}

// Add, and what follows, is part of cache.ReflectorStore.
func (f *followed) Add(o any) error { return f.Update(o) }

// Update takes an object that has changed.
func (f *followed) Update(o any) error {
	if u, ok := o.(*unstructured.Unstructured); ok {
		f.note(u)
	}
	return nil
}

// Delete has nothing to do: what is written to is asked for first.
func (f *followed) Delete(any) error { return nil }

// Replace has nothing to do: ListWithContext has noted all.
func (f *followed) Replace([]any, string) error { return nil }

// Resync has nothing to do.
func (f *followed) Resync() error { return nil }
