// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// heard are the events of a bench until so many came.
func heard(t *testing.T, l *events.Listener, n int) (all []events.Event) {
	t.Helper()
	for len(all) < n {
		next, err := l.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, next...)
	}
	return all
}

func TestWhoeverListensHearsOfConnections(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	listen := func(b *bench) *events.Listener {
		l, err := b.Events.Listen(events.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	web, db := listen(s.web), listen(s.db)
	conn := s.talk()
	conn.CloseWrite()
	expectEOF(t, conn)
	s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}}}})
	for direction, l := range map[string]*events.Listener{"outbound": web, "inbound": db} {
		all := heard(t, l, 2)
		opened, closed := all[0], all[1]
		if opened.Kind != events.Open || closed.Kind != events.Close || closed.Result != "ok" || closed.BytesSent != 5 || closed.Duration == "" {
			t.Errorf("%s: %+v", direction, all)
		}
		if e := opened; e.Direction != direction || e.Service != "shop/db" || !e.Secured || e.Source.Identity != sa("web").String() ||
			e.Destination.Pod != "db-0" || e.Destination.Address != s.app {
			t.Errorf("%s: %+v", direction, e)
		}
	}
	// One that was open is closed, whatever the word for its end.
	s.db.policy.Replace(policy.Objects{})
	s.talk()
	heard(t, web, 1)
	heard(t, db, 1)
	s.web.Tunnels.Retire(hbone.Denied)
	if e := heard(t, web, 1)[0]; e.Kind != events.Close || e.Result != "denied" {
		t.Errorf("%+v", e)
	}
	heard(t, db, 1)
	s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}}}})
	expectRefused(t, webAddr, s.to)
	for _, l := range []*events.Listener{web, db} {
		if e := heard(t, l, 1)[0]; e.Kind != events.Refused || e.Result != "denied" || e.Error == "" {
			t.Errorf("%+v", e)
		}
	}
}
