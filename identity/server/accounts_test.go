// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// A000-3, A000-12, A004-21: how long certificates last is said for the mesh, a namespace
// or a ServiceAccount, and holds from the next certificate on.
func TestTheLifetimeIsThatOfTheNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.TTL = 2 * time.Hour })
		for _, test := range []struct {
			account   string
			namespace map[string]string
			wanted    int64
			want      time.Duration
			by        string
		}{
			{"", nil, 0, 2 * time.Hour, "CA"},
			{"", map[string]string{"mesh": "12h"}, 0, 12 * time.Hour, "Namespace mesh"},
			{"", map[string]string{"mesh": "12h", "shop": "30m"}, 0, 30 * time.Minute, "Namespace shop"},
			{"25s", map[string]string{"mesh": "12h", "shop": "30m"}, 0, 25 * time.Second, "ServiceAccount shop/web"},
			{"24h", map[string]string{"other": "30m"}, 0, 24 * time.Hour, "ServiceAccount shop/web"},
			{"24h", nil, 60, time.Minute, "request"},
			{"30m", nil, 7200, 30 * time.Minute, "ServiceAccount shop/web"},
			{"30m", nil, 1, 25 * time.Second, "request"},
		} {
			r.cfg.Accounts.Replace(map[identity.ServiceAccount]Account{web: {UID: "sa-1", TTL: test.account}}, test.namespace, "mesh")
			request := goodRequest(t)
			request.ValidityDuration = test.wanted
			response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Until(leafOf(t, response).NotAfter); got != test.want {
				t.Errorf("%+v: %v", test, got)
			}
			if record := r.log.take(t)[0]; record["lifetime_by"] != test.by || record["account_uid"] != "sa-1" {
				t.Errorf("%+v: the record is %v", test, record)
			}
		}
	})
}

func TestALifetimeThatIsWrongChangesNothingAndIsSaidOnce(t *testing.T) {
	log := &lines{}
	a := NewAccounts(slog.New(slog.NewJSONHandler(log, nil)))
	say := func(account, namespace string) {
		a.Replace(map[identity.ServiceAccount]Account{web: {TTL: account}}, map[string]string{"shop": namespace}, "mesh")
	}
	say("10m", "")
	for _, text := range []string{"10", "soon", "24s", "25h", "-10m", "1d", "10m "} {
		for range 3 {
			say(text, "")
			if is, by := a.lifetime(web); is != 10*time.Minute || by != "ServiceAccount shop/web" {
				t.Errorf("%q: %v by %s", text, is, by)
			}
		}
		if records := log.take(t); len(records) != 1 || records[0]["object"] != "ServiceAccount shop/web" || !strings.Contains(records[0]["error"].(string), text) {
			t.Errorf("%q was told as %v", text, records)
		}
		if a.wrong() != 1 {
			t.Errorf("%q: %d are wrong", text, a.wrong())
		}
	}
	_, body := get(t, must(New(Config{CA: newRig(t, nil).cfg.CA, Attestor: alwaysNode1{}, Placement: NewPlacement(), DNSNames: []string{"ca"}, Accounts: a})).Handler(), "/metrics")
	if want := `culvert_identity_not_understood{what="lifetime"} 1`; !strings.Contains(body, want) {
		t.Errorf("no %s in the metrics", want)
	}
	// One that was never right gives way to the next.
	say("", "")
	say("never", "1h")
	if is, by := a.lifetime(web); is != time.Hour || by != "Namespace shop" {
		t.Errorf("%v by %s", is, by)
	}
	say("", "")
	if is, _ := a.lifetime(web); is != 0 || a.wrong() != 0 || len(a.ttls) != 0 {
		t.Errorf("taken away: %v, %d are wrong", is, a.wrong())
	}
}

func TestAServiceAccountThatIsMadeAnewIsTold(t *testing.T) {
	log := &lines{}
	a := NewAccounts(slog.New(slog.NewJSONHandler(log, nil)))
	for _, uid := range []string{"1", "1", "2", "2"} {
		a.Replace(map[identity.ServiceAccount]Account{web: {UID: uid}}, nil, "")
	}
	if records := log.take(t); len(records) != 1 || records[0]["uid"] != "2" || records[0]["before"] != "1" {
		t.Errorf("%v", records)
	}
}

// A ServiceAccount that was deleted and made anew, as some deployment tools do, is the same
// identity: its pods, which go on, renew, and the record says which one it was.
func TestAServiceAccountThatIsMadeAnewKeepsItsPods(t *testing.T) {
	r := newRig(t, nil)
	r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web, UID: "pod"}}, nil)
	for _, uid := range []string{"former", "next"} {
		r.cfg.Accounts.Replace(map[identity.ServiceAccount]Account{web: {UID: uid}}, nil, "")
		r.log.take(t) // that it was made anew
		if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
			t.Fatal(err)
		}
		if got := r.log.take(t)[0]["account_uid"]; got != uid {
			t.Errorf("the record names %v, want %s", got, uid)
		}
	}
}
