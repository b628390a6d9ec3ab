// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

func TestWhatATaintedAuthoritySignedIsRenewedAtOnce(t *testing.T) {
	for name, of := range map[string]func(i *issuer) sum{
		"its issuer": func(i *issuer) sum { return identity.KeyHash(i.ca.Issuer()) },
		"its root":   func(i *issuer) sum { return identity.KeyHash(i.ca.Roots()[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				former, next := newCA(t, td), newCA(t, td)
				i := &issuer{ca: former}
				r := run(t, Config{TTL: time.Hour}, i, i)
				hold(t, r, web)
				synctest.Wait()
				key, both := of(i), slices.Concat(former.Roots(), next.Roots())
				r.say(t, 1, both)
				i.set(func() { i.ca = next })
				pass(10 * time.Minute)
				first := r.leaf(web)
				tainted := Bundle{Generation: 1, Hash: identity.BundleHash(both), Roots: both, Tainted: []sum{key}}
				if err := r.take(tainted); err != nil {
					t.Fatal(err)
				}
				pass(maxChangeWait + time.Second)
				second := r.leaf(web)
				if second.Equal(first) {
					t.Fatal("it was not renewed")
				}
				if err := r.take(tainted); err != nil { // it is said again on each stream
					t.Fatal(err)
				}
				pass(maxChangeWait + time.Second)
				if !r.leaf(web).Equal(second) {
					t.Error("what another signed is renewed, too")
				}
			})
		})
	}
}
