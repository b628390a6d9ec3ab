// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto"
	"errors"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/rekey/rekeytest"
	"github.com/culvert-mesh/culvert/identity/signing/signingtest"
)

const (
	rekeyName     = "culvert-rekey"
	leaseResource = "coordination.k8s.io/v1/leases"
)

func TestARekeyInASecretSurvives(t *testing.T) {
	rekeytest.Survive(t, func(t *testing.T) rekeytest.Place { return newShared(t) },
		func(t testing.TB, key crypto.Signer) rekeytest.Signer { return signingtest.Serve(t, key) })
}

// shared is a Secret that replicas share, with what they tell each other.
type shared struct {
	*apiServer
	publisher *Publisher

	mu  sync.Mutex
	all map[string]*Rekey // by replica
}

func newShared(t *testing.T) *shared {
	s := &shared{apiServer: startServer(t), all: map[string]*Rekey{}}
	s.Offer(leaseResource)
	for _, name := range []string{"replica-0", "replica-1"} {
		s.pod(name)
	}
	s.publisher = must(New(Options{API: s.config(), CA: must(ca.New(ca.Options{TrustDomain: td})), Secret: namespace + "/" + secretName, ConfigMap: namespace + "/" + rootName}))
	return s
}

func (s *shared) pod(name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	s.Set(pod)
	return pod
}

func (s *shared) Store() ca.Store { return s.publisher.Store() }

func (s *shared) of(name string) *Rekey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[name] == nil {
		s.all[name] = must(NewRekey(s.config(), namespace+"/"+rekeyName, name))
	}
	return s.all[name]
}

func (s *shared) Board(name string) rekey.Board { return s.of(name) }

func (s *shared) Lead(name string) func(context.Context) error { return s.of(name).Lead }

// What a replica said is believed as long as its pod is there. One that is no pod cannot be
// asked for.
func TestWhatAReplicaTellsGoesWithItsPod(t *testing.T) {
	s := newShared(t)
	here := s.of("replica-0")
	said := map[string]string{"replica-0": "a", "replica-1": "b", "machine" + NotAPod: "c"}
	for name, text := range said {
		if err := here.Put(t.Context(), name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(names ...string) {
		t.Helper()
		all, err := here.All(t.Context())
		if err != nil || len(all) != len(names) {
			t.Fatalf("%q, %v", all, err)
		}
		for _, name := range names {
			if string(all[name]) != said[name] {
				t.Errorf("%s says %q", name, all[name])
			}
		}
	}
	want("replica-0", "replica-1", "machine"+NotAPod)
	s.Delete(s.pod("replica-1"))
	want("replica-0", "machine"+NotAPod)
	if err := here.Put(t.Context(), "replica-0", nil); err != nil {
		t.Fatal(err)
	}
	want("machine" + NotAPod)
}

func TestOneReplicaStepsAtATime(t *testing.T) {
	s := newShared(t)
	if err := s.of("replica-0").Lead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.of("replica-1").Lead(t.Context()); !errors.Is(err, rekey.ErrFollows) {
		t.Errorf("both lead: %v", err)
	}
	if err := s.of("replica-0").Lead(t.Context()); err != nil {
		t.Error(err)
	}
}
