// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// The oldest of a scope decides: one that is new to an API server is the youngest, and one
// that replaces another is as old as that.
func TestAPolicyThatIsTriedIsAsOldAsItWouldBe(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	peer := func(name string, mode policy.Mode, created time.Time) policy.PeerAuthentication {
		return policy.PeerAuthentication{Object: policy.Object{Namespace: "shop", Name: name, Created: created}, Mode: mode}
	}
	all := []policy.PeerAuthentication{peer("first", policy.Permissive, now.Add(-time.Hour)), peer("second", policy.Permissive, now.Add(-time.Minute))}
	all = place(all, peer("first", policy.Strict, time.Time{}), peerObject, now)
	all = place(all, peer("a", policy.Permissive, time.Time{}), peerObject, now)
	if len(all) != 3 || all[0].Mode != policy.Strict || !all[0].Created.Equal(now.Add(-time.Hour)) || !all[2].Created.Equal(now) {
		t.Errorf("%+v", all)
	}
}
