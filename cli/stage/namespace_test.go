// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/stage/stagetest"
)

// The API server made the namespace, and its answer was lost.
func TestANamespaceWithoutAnAnswerIsRemoved(t *testing.T) {
	s, k := newStage(t, stagetest.Runs)
	k.Drops = func(*corev1.Namespace) bool { return true }
	if _, err := s.Build(t.Context()); err == nil || k.Left() != 1 {
		t.Fatalf("%d namespaces: %v", k.Left(), err)
	}
	if err := s.Remove(t.Context()); err != nil || len(k.Namespaces) != 0 {
		t.Errorf("left: %v, %v", k.Namespaces, err)
	}
}

// The API server makes it later still: when Remove has looked once and found none.
func TestANamespaceThatComesLateIsRemoved(t *testing.T) {
	t.Parallel()
	s, k := newStage(t, stagetest.Runs)
	var late atomic.Pointer[corev1.Namespace]
	k.Drops = func(ns *corev1.Namespace) bool {
		first := late.CompareAndSwap(nil, ns)
		if first {
			delete(k.Namespaces, ns.Name)
		}
		return first
	}
	if _, err := s.Build(t.Context()); err == nil {
		t.Fatal("it is built")
	}
	made := make(chan error, 1)
	time.AfterFunc(again/2, func() { made <- s.API.Create(t.Context(), "/api/v1/namespaces", late.Load()) })
	err := s.Remove(t.Context())
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if err != nil || len(k.Namespaces) != 0 {
		t.Errorf("left: %v, %v", k.Namespaces, err)
	}
}

// Another run was first, and no answer said so: its namespace is not ours to remove, though
// culvert bench made it.
func TestAnotherRunsNamespaceIsLeftAfterALostAnswer(t *testing.T) {
	s, k := newStage(t, stagetest.Runs)
	k.Drops = func(ns *corev1.Namespace) bool {
		k.Namespaces[ns.Name] = corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: map[string]string{managedBy: owner, runLabel: "another"}}}
		return true
	}
	if _, err := s.Build(t.Context()); err == nil {
		t.Fatal("it is built")
	}
	if err := s.Remove(t.Context()); err != nil || len(k.Namespaces) != 1 {
		t.Errorf("left: %v, %v", k.Namespaces, err)
	}
}
