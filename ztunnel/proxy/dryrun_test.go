// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"net/netip"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// arrivals are the ways by which a connection arrives at pod db, which policy judges.
var arrivals = map[string]func(t *testing.T) (db *bench, from netip.Addr, to netip.AddrPort){
	"tunnel": func(t *testing.T) (*bench, netip.Addr, netip.AddrPort) {
		s := tell(t, echo(t, dbAddr))
		return s.db, webAddr, s.to
	},
	"same node": func(t *testing.T) (*bench, netip.Addr, netip.AddrPort) {
		s := tellNear(t, echo(t, dbAddr))
		return s.db, webAddr, s.to
	},
	"plaintext": func(t *testing.T) (*bench, netip.Addr, netip.AddrPort) {
		b, to, _ := dbBench(t, toEcho(t))
		return b, legacyAddr, to
	},
}

func denying(dryRun bool) policy.Objects {
	return policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{
		{Object: policy.Object{Namespace: "shop", Name: "deny"}, DryRun: dryRun, Action: policy.Deny, Rules: []policy.Rule{{}}},
	}}
}

// greet opens a connection on which the app answers.
func greet(t *testing.T, from netip.Addr, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn := connect(t, from, to)
	send(t, conn, "hello")
	expect(t, conn, "hello")
	return conn
}

// A dry run refuses nobody by any way; its record says what it would have done. When it
// is enforced, open connections end as by any other change of policy.
func TestADryRunIsRecordedAndRefusesNobodyUntilItIsEnforced(t *testing.T) {
	const wouldDeny = "AuthorizationPolicy shop/deny: would deny"
	for name, arrive := range arrivals {
		t.Run(name, func(t *testing.T) {
			db, from, to := arrive(t)
			counted := func() string {
				for _, d := range db.policy.DryRuns() {
					if d.Verdict == "would_deny" && d.Enforced == "allowed" && d.Connections == 1 {
						return d.Namespace + "/" + d.Name
					}
				}
				return ""
			}
			before := greet(t, from, to)
			db.policy.Replace(denying(true))
			db.Recheck()
			send(t, before, "still")
			expect(t, before, "still")
			before.CloseWrite()
			expectEOF(t, before)
			has(t, db.record(OK), map[string]any{"policy_dry_run": nil})

			open := greet(t, from, to)
			during := greet(t, from, to)
			during.CloseWrite()
			expectEOF(t, during)
			has(t, db.record(OK), map[string]any{"policy_dry_run": wouldDeny, "policy": nil})

			db.policy.Replace(denying(false))
			db.Recheck()
			expectReset(t, open)
			has(t, db.record(PolicyChanged), map[string]any{"policy": "AuthorizationPolicy shop/deny", "policy_dry_run": wouldDeny})
			expectRefused(t, from, to)
			has(t, db.record(Denied), map[string]any{"policy": "AuthorizationPolicy shop/deny", "policy_dry_run": nil})

			db.policy.Replace(denying(true))
			db.Recheck()
			last := greet(t, from, to)
			for _, mode := range []policy.Mode{policy.Disable, policy.Permissive} { // to be asked again is to be no other connection
				changed := denying(true)
				changed.PeerAuthentications = []policy.PeerAuthentication{{Object: policy.Object{Namespace: "shop"}, Mode: mode}}
				db.policy.Replace(changed)
				db.Recheck()
			}
			last.CloseWrite()
			expectEOF(t, last)
			has(t, db.record(OK), map[string]any{"policy_dry_run": wouldDeny})
			if got := counted(); got != "shop/deny" {
				t.Errorf("counted %+v", db.policy.DryRuns())
			}
		})
	}
}
