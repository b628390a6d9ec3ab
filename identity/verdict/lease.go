// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

const (
	// lasts is how long nobody takes a lease that its holder does not renew.
	lasts = 15 * time.Second
	// leadsFor is how long a holder acts on a renewal: it stops before another begins.
	leadsFor = 10 * time.Second
	// renewEvery is how often a holder renews, and others look.
	renewEvery = 2 * time.Second
)

var leases = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

// errHeld is that another holds the lease.
var errHeld = errors.New("another holds it")

// lease is a Lease of the API server, as client-go's leader election has it. That is not
// used because it brings the types of all of Kubernetes with it.
type lease struct {
	client          dynamic.ResourceInterface
	namespace, name string
	self            string

	holder string    // who held it when it was read last
	seen   string    // its resource version then
	since  time.Time // when that was seen first: clocks of others count for nothing
}

// take takes the lease or renews it. After an error other than errHeld nothing is known.
func (l *lease) take(ctx context.Context) error {
	timed, stop := context.WithTimeout(ctx, answerWithin)
	defer stop()
	u, err := l.client.Get(timed, l.name, metav1.GetOptions{})
	there := !apierrors.IsNotFound(err)
	switch {
	case !there:
		u = &unstructured.Unstructured{}
		u.SetGroupVersionKind(leases.GroupVersion().WithKind("Lease"))
		u.SetNamespace(l.namespace)
		u.SetName(l.name)
	case err != nil:
		return err
	}
	l.holder, _, _ = unstructured.NestedString(u.Object, "spec", "holderIdentity")
	if version := u.GetResourceVersion(); version != l.seen {
		l.seen, l.since = version, time.Now()
	}
	if l.holder != "" && l.holder != l.self && time.Since(l.since) < lasts {
		return errHeld
	}
	if err := l.fill(u, l.self); err != nil {
		return err
	}
	if there {
		_, err = l.client.Update(timed, u, metav1.UpdateOptions{})
	} else {
		_, err = l.client.Create(timed, u, metav1.CreateOptions{})
	}
	switch {
	case err == nil:
		l.holder = l.self
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return errHeld
	}
	return err
}

// fill writes a holder into u, "" for none.
func (l *lease) fill(u *unstructured.Unstructured, holder string) error {
	spec, _, err := unstructured.NestedMap(u.Object, "spec")
	if err != nil || spec == nil {
		spec = map[string]any{}
	}
	now := time.Now().UTC().Format(metav1.RFC3339Micro)
	if was := spec["holderIdentity"]; was != holder {
		changes, _ := spec["leaseTransitions"].(int64)
		spec["acquireTime"], spec["leaseTransitions"] = now, changes+1
	}
	spec["holderIdentity"], spec["renewTime"], spec["leaseDurationSeconds"] = holder, now, int64(lasts/time.Second)
	return unstructured.SetNestedMap(u.Object, spec, "spec")
}

// lead calls do, whose context ends with the leadership, while the lease is held, which
// was taken at a moment. It returns once do has.
func (l *lease) lead(ctx context.Context, taken time.Time, do func(context.Context)) {
	leading, end := context.WithCancel(ctx)
	var doing sync.WaitGroup
	defer doing.Wait()
	defer end()
	// Not by the loop, which may wait for an answer.
	expiry := time.AfterFunc(leadsFor-time.Since(taken), end)
	defer expiry.Stop()
	doing.Go(func() { do(leading) })
	for {
		sleep(leading, renewEvery)
		if leading.Err() != nil {
			return
		}
		asked := time.Now()
		switch err := l.take(leading); {
		case err == nil:
			expiry.Reset(leadsFor - time.Since(asked))
		case errors.Is(err, errHeld):
			return
		}
	}
}

// release lets another replica take the lease at once, if it is held.
func (l *lease) release(ctx context.Context) {
	if l.holder != l.self {
		return
	}
	timed, stop := context.WithTimeout(context.WithoutCancel(ctx), renewEvery)
	defer stop()
	u, err := l.client.Get(timed, l.name, metav1.GetOptions{})
	if err != nil {
		return
	}
	if holder, _, _ := unstructured.NestedString(u.Object, "spec", "holderIdentity"); holder != l.self || l.fill(u, "") != nil {
		return
	}
	_, _ = l.client.Update(timed, u, metav1.UpdateOptions{}) // else it ends by itself
}

func (l *lease) String() string { return fmt.Sprintf("%s/%s", l.namespace, l.name) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
