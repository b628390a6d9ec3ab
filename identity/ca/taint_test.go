// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/identity"
)

// Nodes that renewed while the tainted authority signs would get another of its certificates,
// and nobody would tell them again.
func TestAnAuthorityIsNotTaintedBeforeAnotherSigns(t *testing.T) {
	c, store := newCA(t), &Memory{}
	if err := c.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	former, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, err := Successor(former, Options{})
	if err != nil {
		t.Fatal(err)
	}
	other := Key{1}
	all := []Key{identity.KeyHash(former.Roots()[0]), identity.KeyHash(IssuerOf(former)), other}
	c.Taint(all)
	want := func(want ...Key) {
		t.Helper()
		if got := c.Tainted(); !slices.Equal(got, want) {
			t.Errorf("%d are tainted, want %d", len(got), len(want))
		}
	}
	want(other)
	take := func(files Files) {
		t.Helper()
		now, err := store.Read(t.Context())
		if err == nil {
			err = store.Replace(t.Context(), now, files)
		}
		if err == nil {
			err = c.Load(t.Context(), store)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	take(Files{RootFile: EncodeCerts(slices.Concat(former.Roots(), next.Roots()))})
	want(other)
	told := c.Changed()
	take(Files{IssuerFile: next[IssuerFile], IssuerKeyFile: next[IssuerKeyFile], RootKeyFile: next[RootKeyFile]})
	want(all...)
	select {
	case <-told:
	default:
		t.Error("nobody is told that another signs")
	}
}
