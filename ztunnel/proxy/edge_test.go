// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

func TestBothEndsCountTheirEdge(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	conn := s.talk()
	conn.CloseWrite()
	expectEOF(t, conn)
	s.web.record(OK)
	s.db.record(OK)
	s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}, Action: policy.Allow}}})
	expectRefused(t, webAddr, s.to)
	s.web.record(Denied)
	s.db.record(Denied)

	web := edges.End{Namespace: "shop", Workload: "web", Identity: sa("web").String()}
	db := edges.End{Namespace: "shop", Workload: "db", Identity: sa("db").String()}
	for _, b := range []*bench{s.web, s.db} {
		rows := b.Edges.Rows()
		opened, refused := uint64(0), uint64(0)
		for _, r := range rows {
			opened, refused = opened+r.Opened, refused+r.Refused["denied"]
			// Whom the refused one would have reached is not proven to the client.
			if r.Secured != (r.Destination == db) || r.Service != "shop/db" || r.Port != s.app.Port() || r.Source != web || r.Open != 0 {
				t.Errorf("%+v", r)
			}
		}
		if last := rows[len(rows)-1]; opened != 2 || refused != 1 || last.Destination != db || last.BytesSent != 5 {
			t.Errorf("%+v", rows)
		}
	}
}

func TestAnEdgeSaysWhyItIsInPlaintext(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	client := connect(t, legacyAddr, to)
	send(t, client, "hello")
	expect(t, client, "hello")
	client.CloseWrite()
	b.record(OK)
	row := b.Edges.Rows()[0]
	row.Last = row.Last.Truncate(0)
	want := edges.Shown{
		Direction: "inbound", Source: edges.End{Namespace: "shop", Workload: "legacy"}, Destination: edges.End{Namespace: "shop", Workload: "db"},
		Port: to.Port(), Reason: "permissive", Opened: 1, BytesSent: 5, BytesRecv: 5, Last: row.Last,
	}
	if diff := cmp.Diff(want, row); diff != "" {
		t.Error(diff)
	}
}
