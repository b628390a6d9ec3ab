// SPDX-License-Identifier: Apache-2.0

// Package lease has one of several replicas act, by a Lease of the API server.
package lease

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
	// Lasts is how long nobody takes a lease that its holder does not renew.
	Lasts = 15 * time.Second
	// LeadsFor is how long a holder acts on a renewal: it stops before another begins.
	LeadsFor = 10 * time.Second
	// RenewEvery is how often a holder renews, and others look.
	RenewEvery = 2 * time.Second
	// answerWithin is how long the API server may take to answer.
	answerWithin = 5 * time.Second
)

var leases = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

// ErrHeld is that another holds the lease.
var ErrHeld = errors.New("another holds it")

// Lease is a Lease of the API server, as client-go's leader election has it. That is not
// used because it brings the types of all of Kubernetes with it. It is for one goroutine.
type Lease struct {
	Client          dynamic.ResourceInterface // of leases in the namespace
	Namespace, Name string
	Self            string // another for each replica

	holder string    // who held it when it was read last
	seen   string    // its resource version then
	since  time.Time // when that was seen first: clocks of others count for nothing
}

// New returns one that has asked nothing yet.
func New(client dynamic.Interface, namespace, name, self string) *Lease {
	return &Lease{Client: client.Resource(leases).Namespace(namespace), Namespace: namespace, Name: name, Self: self}
}

// Holder is who held it when it was read last.
func (l *Lease) Holder() string { return l.holder }

// Take takes the lease or renews it. After an error other than ErrHeld nothing is known.
func (l *Lease) Take(ctx context.Context) error {
	timed, stop := context.WithTimeout(ctx, answerWithin)
	defer stop()
	u, err := l.Client.Get(timed, l.Name, metav1.GetOptions{})
	there := !apierrors.IsNotFound(err)
	switch {
	case !there:
		u = &unstructured.Unstructured{}
		u.SetGroupVersionKind(leases.GroupVersion().WithKind("Lease"))
		u.SetNamespace(l.Namespace)
		u.SetName(l.Name)
	case err != nil:
		return err
	}
	l.holder, _, _ = unstructured.NestedString(u.Object, "spec", "holderIdentity")
	if version := u.GetResourceVersion(); version != l.seen {
		l.seen, l.since = version, time.Now()
	}
	if l.holder != "" && l.holder != l.Self && time.Since(l.since) < Lasts {
		return ErrHeld
	}
	if err := l.fill(u, l.Self); err != nil {
		return err
	}
	if there {
		_, err = l.Client.Update(timed, u, metav1.UpdateOptions{})
	} else {
		_, err = l.Client.Create(timed, u, metav1.CreateOptions{})
	}
	switch {
	case err == nil:
		l.holder = l.Self
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return ErrHeld
	}
	return err
}

// fill writes a holder into u, "" for none.
func (l *Lease) fill(u *unstructured.Unstructured, holder string) error {
	spec, _, err := unstructured.NestedMap(u.Object, "spec")
	if err != nil || spec == nil {
		spec = map[string]any{}
	}
	now := time.Now().UTC().Format(metav1.RFC3339Micro)
	if was := spec["holderIdentity"]; was != holder {
		changes, _ := spec["leaseTransitions"].(int64)
		spec["acquireTime"], spec["leaseTransitions"] = now, changes+1
	}
	spec["holderIdentity"], spec["renewTime"], spec["leaseDurationSeconds"] = holder, now, int64(Lasts/time.Second)
	return unstructured.SetNestedMap(u.Object, spec, "spec")
}

// Lead calls do, whose context ends with the leadership, while the lease is held, which
// was taken at a moment. It returns once do has.
func (l *Lease) Lead(ctx context.Context, taken time.Time, do func(context.Context)) {
	leading, end := context.WithCancel(ctx)
	var doing sync.WaitGroup
	defer doing.Wait()
	defer end()
	// Not by the loop, which may wait for an answer.
	expiry := time.AfterFunc(LeadsFor-time.Since(taken), end)
	defer expiry.Stop()
	doing.Go(func() { do(leading) })
	for {
		sleep(leading, RenewEvery)
		if leading.Err() != nil {
			return
		}
		asked := time.Now()
		switch err := l.Take(leading); {
		case err == nil:
			expiry.Reset(LeadsFor - time.Since(asked))
		case errors.Is(err, ErrHeld):
			return
		}
	}
}

// Release lets another replica take the lease at once, if it is held.
func (l *Lease) Release(ctx context.Context) {
	if l.holder != l.Self {
		return
	}
	timed, stop := context.WithTimeout(context.WithoutCancel(ctx), RenewEvery)
	defer stop()
	u, err := l.Client.Get(timed, l.Name, metav1.GetOptions{})
	if err != nil {
		return
	}
	if holder, _, _ := unstructured.NestedString(u.Object, "spec", "holderIdentity"); holder != l.Self || l.fill(u, "") != nil {
		return
	}
	_, _ = l.Client.Update(timed, u, metav1.UpdateOptions{}) // else it ends by itself
}

func (l *Lease) String() string { return fmt.Sprintf("%s/%s", l.Namespace, l.Name) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
