// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/lease"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// Options says who tells whom.
type Options struct {
	API           *rest.Config              // required
	Lease         string                    // namespace/name of what one replica holds, and writes; required
	RootNamespace string                    // where mesh-wide policies stand; source.DefaultRootNamespace
	Accounts      []identity.ServiceAccount // of ztunnel's pods, whose nodes a status names; none
	Log           *slog.Logger              // discards
}

// Reporter is one replica's part.
type Reporter struct {
	Options
	client dynamic.Interface
	lease  *lease.Lease
}

// New returns a Reporter that has asked nothing yet.
func New(o Options) (*Reporter, error) {
	namespace, name, ok := strings.Cut(o.Lease, "/")
	if o.API == nil || !ok {
		return nil, errors.New("API and Lease (namespace/name) are required")
	}
	client, err := dynamic.NewForConfig(o.API)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", o.API.Host, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.RootNamespace = cmp.Or(o.RootNamespace, source.DefaultRootNamespace)
	return &Reporter{Options: o, client: client, lease: lease.New(client, namespace, name, host+"_"+rand.Text())}, nil
}

// Run writes what is to be said, while this replica holds the lease, until ctx ends; then
// it returns nil. What fails is said, and tried again.
func (r *Reporter) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		asked := time.Now()
		err := r.lease.Take(ctx)
		switch {
		case err == nil:
			r.Log.Info("this replica writes what ztunnel makes of policies", logLease, r.lease.String())
			r.lease.Lead(ctx, asked, r.lead)
			r.Log.Info("this replica does not write any more what ztunnel makes of policies", logLease, r.lease.String(), logHolder, r.lease.Holder())
		case !errors.Is(err, lease.ErrHeld) && err.Error() != said && ctx.Err() == nil:
			r.Log.Warn("whether this replica writes what ztunnel makes of policies is not known", logLease, r.lease.String(), logError, err)
		}
		if said = ""; err != nil {
			said = err.Error()
		}
		sleep(ctx, lease.RenewEvery)
	}
	r.lease.Release(ctx)
	return nil
}

// term is one leadership, and what is known in it.
type term struct {
	*Reporter
	due      *due
	kinds    map[source.Kind]*followed
	laggards atomic.Pointer[laggards]
	said     time.Time // when the log last had a refusal
}

// lead follows all policies and writes, until ctx ends. It begins when it knows which nodes
// a status has to name, so that a new leader takes no name off.
func (r *Reporter) lead(ctx context.Context) {
	t := &term{Reporter: r, due: newDue(), kinds: map[source.Kind]*followed{}}
	for kind, versions := range kube.PolicyResources() {
		f := &followed{kind: kind, served: new(atomic.Int32), note: func(u *unstructured.Unstructured) { t.note(kind, u) }}
		for _, version := range versions {
			f.versions = append(f.versions, r.client.Resource(version))
		}
		t.kinds[kind] = f
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	t.watchNodes(ctx, func() { writing.Go(func() { t.write(ctx) }) })
}

// watchNodes asks about ztunnels until ctx ends, and calls begin after the first answer.
// Where nodes have changed, all policies are looked at again.
func (t *term) watchNodes(ctx context.Context, begin func()) {
	end := func() {}
	defer func() { end() }()
	begun, failed := false, false
	for pause := firstPause; ctx.Err() == nil; sleep(ctx, pause) {
		next, err := t.findLaggards(ctx)
		if err != nil {
			if !failed && ctx.Err() == nil {
				t.Log.Warn("which nodes a policy's status has to name is not known; it is asked again", logError, err)
			}
			failed, pause = true, min(2*pause, mostPause)
			continue
		}
		failed, pause = false, lookAtNodes
		if before := t.laggards.Swap(&next); before != nil {
			if before.equal(next) {
				continue
			}
			pause = restNodes
		}
		end()
		if end = t.follow(ctx); !begun {
			begun = true
			begin()
		}
	}
}

// follow looks at all policies, and at each that changes, until end is called.
func (t *term) follow(ctx context.Context) (end func()) {
	ctx, end = context.WithCancel(ctx)
	for _, f := range t.kinds {
		f.start(ctx)
	}
	return end
}

// look says what is to be said of an object, and whether its status does not have to be
// written for that.
func (t *term) look(kind source.Kind, u *unstructured.Unstructured) (v verdict, shown bool) {
	byIstiod := writtenByIstiod(u)
	v = judge(kind, u, t.RootNamespace).notOn(*t.laggards.Load())
	return v, v.shows(u, byIstiod)
}

// note takes an object that is there, or has changed.
func (t *term) note(kind source.Kind, u *unstructured.Unstructured) {
	if _, shown := t.look(kind, u); !shown {
		t.due.add(key{kind, source.Name{Namespace: u.GetNamespace(), Name: u.GetName()}})
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
