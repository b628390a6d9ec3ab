// SPDX-License-Identifier: Apache-2.0

package records

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const web = "cluster.local/ns/shop/sa/web"

var pods = []workload.Workload{
	{UID: "u1", Namespace: "shop", Name: "db-1", Owner: "db", Meshed: true, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db"), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
	{UID: "u2", Namespace: "old", Name: "cron"},
	{UID: "u3", Namespace: "shop", Name: "done", Meshed: true, Terminated: true},
}

func allow(rules ...policy.Rule) policy.Objects {
	return policy.Objects{RootNamespace: "istio-system", AuthorizationPolicies: []policy.AuthorizationPolicy{
		{Object: policy.Object{Namespace: "shop", Name: "db"}, Action: policy.Allow, Rules: rules},
	}}
}

func principal(p policy.Pattern) policy.Rule { return policy.Rule{{{Principals: []policy.Pattern{p}}}} }

// written is a record as ztunnel writes it; more are fields in JSON.
func written(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"time":"2026-11-29T11:00:00Z","level":"info","message":"connection complete","direction":"inbound","dst.namespace":"shop","dst.workload":"db-1"` + more + "}\n"
}

func tunnel(id, result string) string {
	return written(fmt.Sprintf(`"src.addr":"10.0.0.1:40000","src.namespace":"shop","src.workload":"web-1","src.identity":"spiffe://%s","dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:5432","path":"tunnel","result":%q`, id, result))
}

func plaintext(src, result string) string {
	return written(fmt.Sprintf(`"src.addr":"%s:40000","dst.addr":"10.0.0.2:5432","path":"passthrough","result":%q`, src, result))
}

func compared(t *testing.T, in io.Reader, before, after policy.Objects) *Comparison {
	t.Helper()
	c, err := Question{Views: []View{{Pods: pods, Before: before, After: after}}}.Compare(in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAChangeIsTriedOnWhatWasRecorded(t *testing.T) {
	log := tunnel(web, "ok") + tunnel(web, "reset") + tunnel("cluster.local/ns/bank/sa/pay", "denied") +
		plaintext("10.0.0.9", "denied") + tunnel("cluster.local/ns/shop/sa/api", "ok")
	before := allow(principal(web), principal("*/sa/api"))
	c := compared(t, strings.NewReader(log), before, allow(principal("*/sa/api"), principal("*/sa/pay")))
	if c.Judged != 5 || c.Refused.Connections != 2 || c.Allowed.Connections != 1 || c.Unchanged.Connections != 2 || c.Otherwise != 0 || len(c.NotJudged) != 0 {
		t.Fatalf("%+v", c)
	}
	refused, allowed := c.Refused.Edges[0], c.Allowed.Edges[0]
	if refused.Source != "spiffe://"+web || refused.Workload != "shop/web-1" || refused.Destination != "shop/db" || refused.Port != 5432 ||
		refused.Connections != 2 || refused.By != "AuthorizationPolicy shop/db" {
		t.Errorf("newly refused: %+v", refused)
	}
	if allowed.Source != "spiffe://cluster.local/ns/bank/sa/pay" || allowed.By != "AuthorizationPolicy shop/db" {
		t.Errorf("newly allowed: %+v", allowed)
	}
	if plain := c.Unchanged.Edges[0]; plain.Source != Plaintext || plain.Address != "10.0.0.9" || plain.By == "" {
		t.Errorf("plaintext is refused as before: %+v", plain)
	}
	if c := compared(t, strings.NewReader(tunnel(web, "denied")), before, before); c.Otherwise != 1 {
		t.Errorf("a connection that was refused, and is allowed by these policies: %+v", c)
	}
}

// Nothing is dropped without a word: each line of a log is judged, counted, or no record of
// a connection that arrived.
func TestWhatCannotBeJudgedIsCounted(t *testing.T) {
	for _, tc := range []struct {
		log, why string
		n        uint64
	}{
		{"\x00\x1b[31m\n", notUnderstood, 1},
		{"time=2026 level=INFO msg=\"connection complete\" direction=inbound\n", notUnderstood, 1},
		{tunnel(web, "ok")[:200], notUnderstood, 1}, // cut off
		{`{"a":"` + strings.Repeat("x", 1<<20) + "\"}\n", tooLong, 1},
		{strings.Replace(tunnel(web, "ok"), `"src.addr":"10.0.0.1:40000"`, `"src.addr":"nobody"`, 1), notUnderstood, 1},
		{strings.Replace(tunnel(web, "ok"), `"dst.hbone_addr":"10.0.0.2:5432"`, `"dst.hbone_addr":"10.0.0.2:99999"`, 1), notUnderstood, 1},
		{strings.Replace(tunnel(web, "ok"), "web-1", strings.Repeat("w", 400), 1), notUnderstood, 1},
		{strings.Replace(tunnel(web, "ok"), `"dst.workload":"db-1"`, `"x":1`, 1), unnamed, 1},
		{strings.Replace(tunnel(web, "ok"), "db-1", "db-0", 1), gone, 1},
		{strings.Replace(tunnel(web, "ok"), "db-1", "done", 1), gone, 1},
		{strings.NewReplacer(`"shop"`, `"old"`, "db-1", "cron").Replace(plaintext("10.0.0.9", "ok")), outside, 1},
		{written(`"src.addr":"10.0.0.1:1","dst.addr":"10.0.0.2:15008","path":"tunnel","result":"tls"`), early, 1},
		{`{"direction":"inbound","result":"denied","omitted":7,"src.addr":"10.0.0.1"}` + "\n", unrecorded, 7},
		{"\n{}\n" + `{"msg":"snapshot"}` + "\n" + `{"direction":"outbound","result":"ok"}` + "\n", "", 0},
	} {
		c := compared(t, strings.NewReader(tc.log+"\n"+tunnel(web, "ok")), allow(), allow())
		want := map[string]uint64{}
		if tc.why != "" {
			want[tc.why] = tc.n
		}
		if !maps.Equal(c.NotJudged, want) || c.Judged != 1 {
			t.Errorf("%.120q: not judged %v, want %v; judged %d, want the one behind it", tc.log, c.NotJudged, want, c.Judged)
		}
	}
}

// crowd is records of n clients in plaintext, each of an address of its own.
type crowd struct {
	n, i int
	rest string
}

func (c *crowd) Read(p []byte) (int, error) {
	if c.rest == "" {
		if c.i == c.n {
			return 0, io.EOF
		}
		c.i++
		c.rest = plaintext(fmt.Sprintf("10.%d.%d.%d", c.i>>16, c.i>>8&255, c.i&255), "ok")
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestMemoryIsBoundedWhateverTheRecordsAre(t *testing.T) {
	const n = 30_000
	strict := policy.Objects{RootNamespace: "istio-system", PeerAuthentications: []policy.PeerAuthentication{{Object: policy.Object{Namespace: "shop", Name: "default"}, Mode: policy.Strict}}}
	c := compared(t, &crowd{n: n}, policy.Objects{}, strict)
	if r := c.Refused; r.Connections != n || len(r.Edges) != maxEdges || r.Others != n-maxEdges {
		t.Errorf("%d connections of %d edges and %d others, want %d of %d and all others", r.Connections, len(r.Edges), r.Others, n, maxEdges)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 64<<20 {
		t.Errorf("%d MiB are held", m.HeapAlloc>>20)
	}
	runtime.KeepAlive(c)
}
