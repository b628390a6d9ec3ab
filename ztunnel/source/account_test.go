// SPDX-License-Identifier: Apache-2.0

package source

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestASnapshotHasServiceAccountsAndWhatTheySayOfLifetimes(t *testing.T) {
	meta := func(namespace, name, uid, ttl string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid), Annotations: map[string]string{"other": "x"}}
		if ttl != "" {
			m.Annotations[CertificateTTL] = ttl
		}
		return m
	}
	set := func(b *Builder, o Object) {
		t.Helper()
		if err := b.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	web := Name{"shop", "web"}
	b := NewBuilder(Options{})
	if got := b.Snapshot().Accounts; got.ByName != nil || got.TTL != nil {
		t.Errorf("of nothing: %+v", got)
	}
	set(b, &corev1.Namespace{ObjectMeta: meta("", "shop", "", "1h")})
	set(b, &corev1.ServiceAccount{ObjectMeta: meta("shop", "web", "u-1", "30m")})
	first := b.Snapshot().Accounts
	want := Accounts{ByName: map[Name]Account{web: {UID: "u-1", TTL: "30m"}}, TTL: map[string]string{"shop": "1h"}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	set(b, &corev1.Namespace{ObjectMeta: meta("", "shop", "", "")})
	set(b, &corev1.ServiceAccount{ObjectMeta: meta("shop", "web", "u-2", "")})
	if diff := cmp.Diff(Accounts{ByName: map[Name]Account{web: {UID: "u-2"}}, TTL: map[string]string{}}, b.Snapshot().Accounts); diff != "" {
		t.Error(diff)
	}
	b.Delete(KindServiceAccount, web)
	b.Delete(KindNamespace, Name{"", "shop"})
	if got := b.Snapshot().Accounts; len(got.ByName)+len(got.TTL) != 0 {
		t.Errorf("after they have gone: %+v", got)
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("a snapshot was written to: %s", diff)
	}
}
