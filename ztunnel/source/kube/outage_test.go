// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func anySnapshot(source.Snapshot) bool { return true }

func meshed(pods ...string) func(source.Snapshot) bool {
	return func(s source.Snapshot) bool {
		for _, name := range pods {
			for _, w := range s.Mesh.Workloads {
				if w.Name == name && !w.Meshed {
					return false
				}
			}
			if !has(s, name) {
				return false
			}
		}
		return len(s.Mesh.Workloads) == len(pods)
	}
}

func TestWhileTheAPIServerIsAwayTheLastGoodStateStaysInForce(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	w.until("the first", anySnapshot)

	server.stop()
	w.says("connection refused")
	w.none("the API server is away")
	server.Set(pod(t, "web-2", 2))
	server.Delete(pod(t, "web-1", 1))
	server.start()
	w.until("what changed meanwhile", meshed("web-2"))
	w.says("")
}

func TestChangesThatTheAPIServerForgotAreFoundByANewList(t *testing.T) {
	for name, during := range map[string]func(*apiServer){
		"while it was away": func(s *apiServer) { s.stop(); s.Forget(); s.start() },
		"while it watched":  func(s *apiServer) { s.Forget() },
	} {
		t.Run(name, func(t *testing.T) {
			server := startServer(t)
			server.Set(cluster(t)...)
			w := start(t, options(server))
			w.until("the first", anySnapshot)
			server.Delete(pod(t, "web-1", 1))
			server.Set(pod(t, "web-2", 2), pod(t, "web-3", 3))
			during(server)
			server.Set(pod(t, "web-4", 4))
			w.until("all of it", meshed("web-2", "web-3", "web-4"))
		})
	}
}

// A watch from a version that is yet to come would be silent until it comes.
func TestAnAPIServerThatWentBackInTimeIsListedAnew(t *testing.T) {
	for lists, streams := range map[string]bool{"streaming lists": true, "lists": false} {
		for how, restore := range map[string]func(*apiServer){
			"restarted": func(s *apiServer) { s.stop(); s.Restore(10, cluster(t)...); s.start() },
			"in place":  func(s *apiServer) { s.Restore(10, cluster(t)...) },
		} {
			t.Run(lists+" "+how, func(t *testing.T) {
				server := startServer(t)
				if !streams {
					server.NoStreams()
				}
				server.Set(cluster(t)...)
				w := start(t, options(server))
				w.until("the first", meshed("web-1"))
				server.Set(pod(t, "web-2", 2)) // a watch that saw nothing is not gone on with
				w.until("another pod", meshed("web-1", "web-2"))

				restore(server)
				w.until("as it was then", meshed("web-1"))
				server.Set(pod(t, "web-3", 3))
				w.until("and what comes", meshed("web-1", "web-3"))
				w.says("")
			})
		}
	}
}

func TestAnAPIServerMayComeLaterThanWeDo(t *testing.T) {
	server := startServer(t)
	server.stop()
	w := start(t, options(server))
	w.says("connection refused")
	w.none("nothing is known")
	server.Set(cluster(t)...)
	server.start()
	w.until("the first", meshed("web-1"))
	w.says("")
}

func TestAfterTheEndNobodyWatches(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	w.until("the first", anySnapshot)
	w.stop()
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("cache.(*Reflector)")) {
		t.Errorf("a reflector goes on:\n%s", stacks)
	}
}

// client-go sleeps long between attempts. TestMain finds what goes on after the end.
func TestTheEndIsNotDelayedByAnAPIServerThatIsAway(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	server.stop()
	w := start(t, options(server))
	w.says("connection refused")
	<-time.After(4 * time.Second) // until the pauses are long
	watch := env.NewStopwatch()
	w.stop()
	if took := watch.Elapsed(); took >= endWithin { // when it would be left
		t.Errorf("it took %v", took)
	}
}

// Such is a program that a kubeconfig names for tokens.
func TestARequestThatDoesNotEndIsLeft(t *testing.T) {
	t.Parallel()
	s, err := New(options(startServer(t)))
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{})
	t.Cleanup(func() { close(free) })
	var asking sync.WaitGroup
	asking.Go(func() { <-free })
	began, watch := time.Now(), env.NewStopwatch()
	s.end(&asking)
	if took := time.Since(began); took < endWithin || watch.Elapsed() > 5*endWithin {
		t.Errorf("it took %v", took)
	}
}

func TestOneKindThatMayNotBeReadHoldsBackTheFirstSnapshot(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Refuse(peerAuthentications, apierrors.NewForbidden(schema.GroupResource{Resource: "peerauthentications"}, "", nil))
	w := start(t, options(server))
	w.says("PeerAuthentication: peerauthentications is forbidden")
	w.none("policies are not known")
	server.Refuse(peerAuthentications, nil)
	w.until("the first", meshed("web-1"))
}

func TestOneKindThatMayNoMoreBeReadStaysAsItWas(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	w.until("the first", anySnapshot)
	server.Refuse("namespaces", apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "", nil))
	w.says("Namespace: namespaces is forbidden")
	server.Set(pod(t, "web-2", 2)) // others go on
	w.until("a pod of the namespace that was known", meshed("web-1", "web-2"))
}

// What a pod or its namespace is missing takes no pod out of the mesh.
func TestAMissingObjectLetsNoPodOutOfTheMesh(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	registry := workload.NewRegistry(nil)
	until := func(what string, ok func(w workload.Workload, known bool) bool) {
		t.Helper()
		w.until(what, func(s source.Snapshot) bool {
			registry.Replace(s.Mesh)
			return ok(registry.ByUID("uid-web-1"))
		})
	}
	until("in the mesh", func(w workload.Workload, _ bool) bool { return w.Meshed })
	server.Delete(namespace(t, "shop", ""))
	w.until("the namespace is gone", func(s source.Snapshot) bool {
		registry.Replace(s.Mesh)
		return len(s.Mesh.Namespaces) == 0
	})
	if pod, _ := registry.ByUID("uid-web-1"); !pod.Meshed {
		t.Error("the pod left the mesh with its Namespace's object")
	}
	server.Delete(parse[corev1.Node](t, `{metadata: {name: node-1}}`))
	server.Delete(pod(t, "web-1", 1))
	until("the pod is gone", func(_ workload.Workload, known bool) bool { return !known })
	if _, err := registry.Resolve(addrPort("10.1.0.9:1").Addr(), addrPort("10.1.0.1:80")); err == nil {
		t.Error("the address of a pod that went with its Node is taken for the world outside")
	}
}

func TestWithoutAnyCIDROfThePodsNothingIsInForce(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Set(parse[corev1.Node](t, `{metadata: {name: node-1}}`))
	w := start(t, options(server))
	w.says("do not hold the addresses of 1 of 1 pods, such as Pod shop/web-1 at 10.1.0.1 (-mesh-cidrs)")
	w.none("every pod would be of the world outside")

	o := options(server)
	o.MeshCIDRs = prefixes("10.1.0.0/16")
	w = start(t, o)
	w.until("with a flag", meshed("web-1"))
	w.says("")
}

func TestPlacementAloneNeedsNoCIDRs(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o := options(server)
	o.PlacementOnly = true
	w := start(t, o)
	w.until("without Nodes", meshed("web-1"))
	w.source.save()
	w.says("")
}

func TestAnEmptyClusterNeedsCIDRsToo(t *testing.T) {
	server := startServer(t)
	w := start(t, options(server))
	w.says("no Node has spec.podCIDRs")
	w.none("no CIDR is known")
	server.Set(cluster(t)...)
	w.until("the first node", meshed("web-1"))
}

// Whoever may write one policy must not make the mesh believe that nobody knows who is where.
func TestOnlyPodsAndNodesThatCannotBeReadAreOld(t *testing.T) {
	server := startServer(t)
	server.Offer(peerAuthentications)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	w.until("the first", anySnapshot)
	server.Set(peerAuthentication(t, "v1", "misspelt", `{mtls: {mode: STRICT}, excludePorts: [80]}`))
	w.says("PeerAuthentication shop/misspelt")
	server.Refuse("services", apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", nil))
	w.says("Service: services is forbidden")
	if w.source.Stats().Old {
		t.Error("a policy that is not understood, and Services that cannot be read, make pods old")
	}
	for _, resource := range []string{"pods", "nodes"} {
		server.Refuse(resource, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", nil))
		await(t, resource+" are old", func() bool { return w.source.Stats().Old })
		server.Refuse(resource, nil)
		await(t, resource+" can be read again", func() bool { return !w.source.Stats().Old })
	}
}
