// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var client = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/client")

func TestADenialNamesThePolicyThatDecided(t *testing.T) {
	for _, c := range []struct {
		policies []PeerAuthentication
		want     string
	}{
		{[]PeerAuthentication{mesh(Strict)}, "PeerAuthentication istio-system/default: STRICT, and the connection is plaintext"},
		{[]PeerAuthentication{mesh(Strict), namespace(Unset)}, "PeerAuthentication istio-system/default: STRICT, and the connection is plaintext"},
		{[]PeerAuthentication{mesh(Permissive), namespace(Strict)}, "PeerAuthentication shop/default: STRICT, and the connection is plaintext"},
		{[]PeerAuthentication{selecting(Permissive, map[uint16]Mode{80: Strict})}, "PeerAuthentication shop/web: STRICT, and the connection is plaintext"},
	} {
		s := NewSet()
		s.Replace(Objects{RootNamespace: root, PeerAuthentications: c.policies})
		err := s.AllowInbound(Request{Src: netip.MustParseAddr("10.0.0.1"), Dst: web, Port: 80})
		var denied *Denied
		if !errors.As(err, &denied) || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func authz(ns, name string, sel Selector) AuthorizationPolicy {
	return AuthorizationPolicy{Object: Object{Namespace: ns, Name: name, Selector: sel}}
}

func TestAnAuthorizationPolicyThatAppliesRefusesEveryone(t *testing.T) {
	attached := authz("shop", "waypoint", nil)
	attached.TargetRefs = true
	for _, c := range []struct {
		name     string
		policies []AuthorizationPolicy
		want     string // the policy that is named; empty: allowed
	}{
		{"none", nil, ""},
		{"of the namespace", []AuthorizationPolicy{authz("shop", "deny", nil)}, "shop/deny"},
		{"of another namespace", []AuthorizationPolicy{authz("bank", "deny", nil)}, ""},
		{"mesh-wide", []AuthorizationPolicy{authz(root, "deny", nil)}, "istio-system/deny"},
		{"mesh-wide before the namespace's", []AuthorizationPolicy{authz("shop", "a", nil), authz(root, "z", nil)}, "istio-system/z"},
		{"selects the workload", []AuthorizationPolicy{authz("shop", "web", Selector{"app": "web"})}, "shop/web"},
		{"selects another workload", []AuthorizationPolicy{authz("shop", "db", Selector{"app": "db"})}, ""},
		{"half of the selector matches", []AuthorizationPolicy{authz("shop", "x", Selector{"app": "web", "tier": "back"})}, ""},
		{"selects in all namespaces", []AuthorizationPolicy{authz(root, "web", Selector{"app": "web"})}, "istio-system/web"},
		{"selects others in all namespaces", []AuthorizationPolicy{authz(root, "db", Selector{"app": "db"})}, ""},
		{"selects the same labels elsewhere", []AuthorizationPolicy{authz("bank", "web", Selector{"app": "web"})}, ""},
		{"empty selector", []AuthorizationPolicy{authz("shop", "all", Selector{})}, "shop/all"},
		{"attached to a waypoint", []AuthorizationPolicy{attached}, ""},
		{"the first by name is named", []AuthorizationPolicy{authz("shop", "b", nil), authz("shop", "a", nil)}, "shop/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewSet()
			s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: c.policies})
			for _, peer := range []spiffeid.ID{{}, client} {
				err := s.AllowInbound(Request{Peer: peer, Dst: web, Port: 80})
				switch {
				case c.want == "" && err != nil:
					t.Errorf("peer %v: %v", peer, err)
				case c.want != "" && (err == nil || err.Error() != "AuthorizationPolicy "+c.want+": not understood by this version"):
					t.Errorf("peer %v: %v, want a denial by %s", peer, err, c.want)
				}
			}
		})
	}
}

func TestAnUnknownDestinationIsRefused(t *testing.T) {
	unknown := Request{Peer: client, Dst: workload.Workload{Namespace: "shop"}, Port: 80}
	if got, want := text(NewSet().AllowInbound(unknown)), "the destination is no workload that is known"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOutboundGoesOutsideTheMeshAndToIdentifiedPeersOnly(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{mesh(Strict)}})
	peer := workload.Workload{UID: "u", Namespace: "shop", Name: "db", Meshed: true, ID: client}
	nameless := peer
	nameless.ID = spiffeid.ID{}
	outside := peer
	outside.Meshed, outside.ID = false, spiffeid.ID{}
	for _, c := range []struct {
		peer workload.Workload
		want string
	}{
		{workload.Workload{}, ""},
		{peer, ""},
		{outside, ""},
		{nameless, "workload shop/db is in the mesh and has no identity"},
	} {
		err := s.AllowOutbound(web, workload.Destination{Peer: &c.peer})
		if got := text(err); got != c.want {
			t.Errorf("to %+v: %q, want %q", c.peer, got, c.want)
		}
	}
}

func TestReplaceIsSeenByTheNextQuestion(t *testing.T) {
	s := NewSet()
	plain := Request{Dst: web, Port: 80}
	if err := s.AllowInbound(plain); err != nil {
		t.Fatal(err)
	}
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{mesh(Strict)}})
	if err := s.AllowInbound(plain); err == nil {
		t.Error("plaintext is allowed under STRICT")
	}
	s.Replace(Objects{RootNamespace: root})
	if err := s.AllowInbound(plain); err != nil {
		t.Error(err)
	}
}

func TestReplaceDoesNotReorderTheCallersPolicies(t *testing.T) {
	policies := []PeerAuthentication{namespace(Strict).named("b"), namespace(Strict).named("a")}
	NewSet().Replace(Objects{RootNamespace: root, PeerAuthentications: policies})
	if policies[0].Name != "b" {
		t.Error("sorted in place")
	}
}

func TestModesAreReadAsTheyAreWritten(t *testing.T) {
	for _, m := range []Mode{Unset, Permissive, Strict, Disable} {
		if got, ok := ParseMode(m.String()); !ok || got != m {
			t.Errorf("%v is read as %v, %v", m, got, ok)
		}
	}
	if m, ok := ParseMode(""); !ok || m != Unset {
		t.Errorf("nothing is read as %v, %v", m, ok)
	}
	for _, wrong := range []string{"strict", "STRIKT", "MUTUAL"} {
		if _, ok := ParseMode(wrong); ok {
			t.Errorf("%q is a mode", wrong)
		}
	}
}

func TestTheDumpShowsPoliciesAsTheyAreWritten(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{selecting(Strict, map[uint16]Mode{8080: Disable})}})
	dump, err := json.Marshal(s.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"RootNamespace":"istio-system"`, `"Selector":{"app":"web"}`, `"Mode":"STRICT"`, `"Ports":{"8080":"DISABLE"}`} {
		if !strings.Contains(string(dump), want) {
			t.Errorf("no %s in %s", want, dump)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func BenchmarkAllowInbound(b *testing.B) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{mesh(Strict), namespace(Permissive), selecting(Unset, map[uint16]Mode{80: Strict})}})
	for b.Loop() {
		_ = s.AllowInbound(Request{Dst: web, Port: 81})
	}
}
