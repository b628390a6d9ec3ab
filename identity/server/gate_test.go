// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

func TestTheGateLetsInAsManyAsThereAreCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2)
		var inside, most, served atomic.Int32
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				if i%10 != 0 {
					ctx = t.Context()
				}
				if g.enter(ctx, i%2 == 0) != nil {
					return
				}
				served.Add(1)
				for now := inside.Add(1); now > most.Load(); {
					most.Store(now)
				}
				time.Sleep(time.Millisecond) // bubble time
				inside.Add(-1)
				g.leave()
			})
		}
		all.Wait()
		if most.Load() != 2 || served.Load() < 90 || g.free != 2 {
			t.Errorf("%d at a time, %d served, %d free", most.Load(), served.Load(), g.free)
		}
	})
}

func TestAFirstCertificateGoesBeforeRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		if err := g.enter(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		var served []string
		for _, lane := range []string{"renewal", "first"} {
			for range 10 {
				go func() {
					if g.enter(t.Context(), lane == "renewal") == nil {
						served = append(served, lane)
						g.leave()
					}
				}()
				synctest.Wait()
			}
		}
		g.leave()
		synctest.Wait()
		want := "[first first first first first first first renewal first first first"
		if got := fmt.Sprint(served); len(served) != 20 || got[:len(want)] != want {
			t.Errorf("served %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := g.enter(ctx, true); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := g.enter(ctx, true); !errors.Is(err, context.Canceled) || len(g.renewals) != 0 {
			t.Errorf("%v, %d wait", err, len(g.renewals))
		}
	})
}

func TestOneIdentityIsNotRenewedWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.IDBurst = 3 })
		ask := func(pods ...string) error {
			var running []Running
			for _, uid := range pods {
				running = append(running, Running{Node: "node-1", ServiceAccount: web, UID: uid})
			}
			r.cfg.Placement.Replace(running, nil)
			_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
			return err
		}
		for range 3 {
			if err := ask("a"); err != nil {
				t.Fatal(err)
			}
		}
		err := ask("a")
		wantStatus(t, err, codes.ResourceExhausted, "too often")
		if wait, told := retryInfo(err); !told || wait != 5*time.Second {
			t.Errorf("to come again after %v", wait)
		}
		if err := ask("a", "b"); err != nil {
			t.Errorf("a new pod waits for nobody: %v", err)
		}
		for ask("a", "b") == nil {
		}
		if err := ask("b"); err == nil {
			t.Error("a pod that went makes no new one")
		}
		time.Sleep(5 * time.Second) // bubble time
		if err := ask("a", "b"); err != nil {
			t.Errorf("after 5 s: %v", err)
		}
		// A lifetime of nothing must not make each request a first one.
		request := goodRequest(t)
		request.ValidityDuration = 1
		var refusals int
		for range 10 {
			if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request); err != nil {
				refusals++
			}
		}
		if refusals != 10 {
			t.Errorf("%d of 10 refused", refusals)
		}
		time.Sleep(26 * time.Hour)
		r.often.take(place{"other", web}, nil, time.Hour)
		if len(r.often.held) != 1 {
			t.Errorf("%d are remembered", len(r.often.held))
		}
	})
}

// 200 nodes of 40 ServiceAccounts each start at once, as after a power cut. What has no
// room is told when to come again, and comes; nobody fails.
func TestAHerdIsServed(t *testing.T) {
	nodes, each := 200, 40
	if testing.Short() {
		nodes = 30
	}
	r := newRig(t, nil)
	var running []Running
	for n := range nodes {
		for i := range each {
			running = append(running, Running{Node: fmt.Sprintf("node-%d", n), UID: fmt.Sprintf("%d-%d", n, i),
				ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: fmt.Sprintf("app-%d", i)}})
		}
	}
	r.cfg.Placement.Replace(running, nil)
	csr := newCSR(t)
	var issued, again atomic.Int32
	var all sync.WaitGroup
	for n := range nodes {
		ctx := withToken(t.Context(), mint(t, "ES256", esKey, "es", withIn("node", map[string]any{"name": fmt.Sprintf("node-%d", n), "uid": "u"})))
		for i := range each {
			all.Go(func() {
				request := &identityv1.IstioCertificateRequest{Csr: csr, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
					identityv1.ImpersonatedIdentity: structpb.NewStringValue(fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/app-%d", i))}}}
				for {
					_, err := r.CreateCertificate(ctx, request)
					if err == nil {
						issued.Add(1)
						return
					}
					wait, told := retryInfo(err)
					if !told {
						t.Errorf("%v %v", status.Code(err), err)
						return
					}
					again.Add(1)
					time.Sleep(wait) // as it was told
				}
			})
		}
	}
	all.Wait()
	if int(issued.Load()) != nodes*each {
		t.Errorf("%d of %d", issued.Load(), nodes*each)
	}
	t.Logf("%d certificates; %d times somebody was told to come again", issued.Load(), again.Load())
}
