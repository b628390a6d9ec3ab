// SPDX-License-Identifier: Apache-2.0

package join_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

// The API server refuses a Secret of more than 1 MiB: what it refused would be the
// redemption of a token that an operator has made long before.
func TestASecretHasRoomForTheRedemptionOfEachToken(t *testing.T) {
	const mostOfASecret = 1 << 20
	for name, length := range map[string]int{"short identities": 40, "long identities": 280} {
		t.Run(name, func(t *testing.T) {
			o := &jointest.Object{}
			foreign := make([]byte, mostOfASecret-200<<10)
			if err := o.Replace(t.Context(), map[string][]byte{"notes.json": foreign}, ""); err != nil {
				t.Fatal(err)
			}
			store, now := join.In(o), time.Now().UTC().Truncate(time.Second)
			account := strings.Repeat("a", length-len("spiffe://cluster.local/ns/legacy/sa/"))
			record := func(i int) join.Record {
				return join.Record{
					ID: fmt.Sprintf("%016x", i), Created: now, Expires: now.Add(time.Hour),
					Identity: spiffeid.RequireFromString("spiffe://cluster.local/ns/legacy/sa/" + account),
				}
			}
			tokens, err := 0, error(nil)
			for ; err == nil && tokens < 1000; tokens++ {
				err = store.Add(t.Context(), record(tokens))
			}
			tokens-- // the last was refused
			if err == nil || !strings.Contains(err.Error(), "1 MiB") {
				t.Fatalf("after %d tokens: %v", tokens, err)
			}
			if n := held(o); n < mostOfASecret-100<<10 {
				t.Errorf("%d tokens are refused at %d bytes", tokens, n)
			}
			for i := range tokens {
				if err := store.Redeem(t.Context(), record(i).ID, join.Key{1}); err != nil {
					t.Fatal(err)
				}
			}
			if n := held(o); n > mostOfASecret-16<<10 {
				t.Errorf("%d processes take %d bytes", tokens, n)
			}
			if err := store.Remove(t.Context(), record(0).ID); err != nil {
				t.Fatal(err)
			}
			if err := store.Add(t.Context(), record(tokens)); err != nil {
				t.Errorf("once a process was revoked: %v", err)
			}
		})
	}
}

// held is what the API server counts, and the names of the keys.
func held(o *jointest.Object) int {
	n := 0
	for name, value := range o.Data() {
		n += len(name) + len(value)
	}
	return n
}
