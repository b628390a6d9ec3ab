// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

// Replicas share one Secret: its version decides which of two redemptions wins.
func TestASecretIsAStoreOfJoinTokens(t *testing.T) {
	jointest.Conformance(t, func(t *testing.T) func() join.Store {
		s := startServer(t)
		return func() join.Store { return join.In(must(JoinSecret(s.config(), namespace+"/culvert-join"))) }
	})
}

// Whoever keeps something else in the Secret finds it again, whatever its key.
func TestOtherKeysOfASecretOfJoinTokensStay(t *testing.T) {
	s := startServer(t)
	foreign := map[string][]byte{ca.BundleFile: []byte("not the CA's"), ca.RootFile: []byte("nor this"), "notes": nil}
	s.Set(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "culvert-join"}, Data: maps.Clone(foreign)})
	store := join.In(must(JoinSecret(s.config(), namespace+"/culvert-join")))
	token, _, err := join.Create(t.Context(), store, join.Options{Identity: jointest.Batch, TTL: join.MinTTL})
	if err := errors.Join(err, store.Redeem(t.Context(), token.ID, join.Key{1}), store.Remove(t.Context(), token.ID)); err != nil {
		t.Fatal(err)
	}
	for _, o := range s.Objects("secrets") {
		if data := o.(*corev1.Secret).Data; !maps.EqualFunc(foreign, data, bytes.Equal) {
			t.Errorf("the Secret holds %q", data)
		}
	}
}

func TestAStoreOfJoinTokensThatCannotBeAskedSaysSo(t *testing.T) {
	s := startServer(t)
	store := join.In(must(JoinSecret(s.config(), namespace+"/culvert-join")))
	token, _, err := join.Create(t.Context(), store, join.Options{Identity: jointest.Batch, TTL: join.MinTTL})
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	if _, err := store.Find(t.Context(), token.ID); err == nil || errors.Is(err, join.ErrUnknown) {
		t.Errorf("with the API server away: %v", err)
	}
	s.start()
	if _, err := store.Find(t.Context(), token.ID); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}
