// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// stolen has web's tunnels come from an address that is not web's.
func stolen(from netip.Addr) plot { return func(s *story) { s.from = from } }

func enforcing(s *story) { s.db.Origins.Mode = AtSourceEnforce }

// N-8, A002-9: a leaf that is replayed from elsewhere is refused, whether the address is
// somebody else's or nobody's. By default that is only said and counted.
func TestAStolenLeafIsWorthNothingElsewhere(t *testing.T) {
	for name, from := range map[string]struct {
		addr  netip.Addr
		kind  string
		whose string
	}{
		"another pod's address": {legacyAddr, "another", "127.0.1.3, which pod shop/legacy-0 has"},
		"nobody's address":      {ghostAddr, "unknown", "127.0.1.9, which nobody known has"},
	} {
		says := "id-not-at-source: spiffe://cluster.local/ns/shop/sa/web comes from " + from.whose
		t.Run(name+", enforced", func(t *testing.T) {
			s := tell(t, echo(t, dbAddr), stolen(from.addr), enforcing)
			expectRefused(t, webAddr, s.to)
			has(t, s.db.record(NotAtSource), map[string]any{"error": says, "response_flags": "DENY", "src.identity": sa("web").String()})
			if got := s.db.metric("culvert_id_not_at_source_total", `mode="enforce"`, `address="`+from.kind+`"`); got != "1" {
				t.Errorf("%s are counted, want 1", got)
			}
		})
		t.Run(name+", by default", func(t *testing.T) {
			s := tell(t, echo(t, dbAddr), stolen(from.addr))
			conn := greet(t, webAddr, s.to)
			conn.CloseWrite()
			expectEOF(t, conn)
			has(t, s.db.record(OK), map[string]any{"source_warn": says, "response_flags": "-"})
			if got := s.db.metric("culvert_id_not_at_source_total", `mode="warn"`, `address="`+from.kind+`"`); got != "1" {
				t.Errorf("%s are counted, want 1", got)
			}
		})
	}
}

// Whoever may come from elsewhere comes, and whoever is at home is not mentioned.
func TestAnIdentityAtItsSourceIsLetIn(t *testing.T) {
	for name, change := range map[string]plot{
		"at home": func(*story) {},
		"from an exempt network": func(s *story) {
			s.from, s.db.Origins.Exempt = ghostAddr, []netip.Prefix{netip.MustParsePrefix("127.0.1.8/30")}
		},
		"nobody asks": func(s *story) { s.from, s.db.Origins.Mode = ghostAddr, AtSourceOff },
		"behind its node's address": func(s *story) {
			s.from = ghostAddr
			mesh := meshOf(s.app.Port(), 1)
			web := mesh.Workloads[0].Workload()
			web.Node = "node-1"
			mesh.Workloads = append(workload.Pack(web), mesh.Workloads[1:]...)
			mesh.Nodes = []workload.Node{{Name: "node-1", Addrs: []netip.Addr{ghostAddr}}}
			s.registry.Replace(mesh)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, echo(t, dbAddr), enforcing, change)
			conn := greet(t, webAddr, s.to)
			conn.CloseWrite()
			expectEOF(t, conn)
			has(t, s.db.record(OK), map[string]any{"source_warn": nil})
		})
	}
}

// While the source of workloads cannot be read, a pod that is new is not taken for a thief.
func TestNobodyIsRefusedByARegistryThatMayBeOld(t *testing.T) {
	for name, old := range map[string]plot{
		"the source cannot be read": func(s *story) { s.db.Origins.Current = func() bool { return false } },
		"the snapshot is a stored one": func(s *story) {
			mesh := meshOf(s.app.Port(), 1)
			mesh.Stored = true
			s.registry.Replace(mesh)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, echo(t, dbAddr), stolen(ghostAddr), enforcing, old)
			conn := greet(t, webAddr, s.to)
			conn.CloseWrite()
			expectEOF(t, conn)
			if warn, _ := s.db.record(OK)["source_warn"].(string); !strings.Contains(warn, "id-not-at-source") {
				t.Errorf("it says %q", warn)
			}
		})
	}
}

// A pod's first connection may be faster than the registry.
func TestAPodThatCameAMomentAgoIsWaitedFor(t *testing.T) {
	s := tell(t, echo(t, dbAddr), stolen(ghostAddr), enforcing)
	time.AfterFunc(sourceWithin/10, func() {
		mesh := meshOf(s.app.Port(), 1)
		web := mesh.Workloads[0].Workload()
		web.Addrs = append([]netip.Addr{ghostAddr}, web.Addrs...)
		mesh.Workloads = append(workload.Pack(web), mesh.Workloads[1:]...)
		s.registry.Replace(mesh)
	})
	conn := greet(t, webAddr, s.to)
	conn.CloseWrite()
	expectEOF(t, conn)
	has(t, s.db.record(OK), map[string]any{"source_warn": nil})
}

// Whoever replays a leaf from many connections finds as few places to wait in as a stranger
// that NetworkPolicies refuse: see TestConnectionsOfUnknownSourcesHoldUpNobodyElse.
func TestConnectionsFromElsewhereThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget, db := NewBudget(), newBench(t, registryOf(meshOf(5432, 80)), "db")
		db.Origins.Mode, db.Share = AtSourceEnforce, budget.Share("shop/db")
		refused := make(chan error, 10000)
		var flood sync.WaitGroup
		for range cap(refused) {
			flood.Go(func() { refused <- db.admitOrigin(db.arrival(sa("web"), ghostAddr), sa("web")) })
		}
		synctest.Wait()
		_, used := budget.Stats()
		if at := len(refused); used["waits"] == 0 || used["waits"] > waitsMost || at+int(used["waits"]) != cap(refused) {
			t.Errorf("%v wait, %d are refused at once", used["waits"], at)
		}
		for range len(refused) {
			if err := <-refused; wordOf(err) != Limit || unauthorized(err) != http.StatusTooManyRequests {
				t.Fatalf("one more is refused with %d: %v", unauthorized(err), err)
			}
		}
		flood.Wait()
		for range len(refused) {
			if err := <-refused; wordOf(err) != NotAtSource || unauthorized(err) != http.StatusUnauthorized {
				t.Fatalf("one that has waited is refused with %d: %v", unauthorized(err), err)
			}
		}
		if _, used := budget.Stats(); used["waits"] != 0 {
			t.Errorf("%v still wait", used["waits"])
		}
	})
}

// No registry of ours says where an identity of another trust domain runs; but an address of
// this mesh is none of its.
func TestAForeignIdentityComesFromOutsideTheMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget, db := NewBudget(), newBench(t, registryOf(meshOf(5432, 80)), "db")
		db.Origins.Mode, db.Share = AtSourceEnforce, budget.Share("shop/db")
		foreign := spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
		for addr, want := range map[string]Word{
			"192.0.2.1":         "",
			"2001:db8::1":       "",
			ghostAddr.String():  NotAtSource, // inside the CIDRs of the mesh, and nobody has it
			legacyAddr.String(): NotAtSource,
		} {
			from := netip.MustParseAddr(addr)
			c := db.arrival(foreign, from)
			c.dst.workload = db.whoWeAre()
			if err := db.admitOrigin(c, foreign); (err == nil) != (want == "") || err != nil && wordOf(err) != want {
				t.Errorf("from %v: %v, want %q", from, err, want)
			}
		}
	})
}
