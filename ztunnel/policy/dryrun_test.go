// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
)

func (p AuthorizationPolicy) dry() AuthorizationPolicy { p.DryRun = true; return p }

func onPort(port uint16) Rule { return Rule{{{Ports: []uint16{port}}}} }

// rehearse is what a connection got, and what its record says of dry runs.
func rehearse(s *Set, r Request) string {
	c := s.Concern(r.Dst)
	err := c.AllowInbound(&r)
	return fmt.Sprintf("%v | %s", err, c.DryRun(&r, err))
}

// A dry run says what would have become of the connection: a policy that allows is asked
// beside those that allow already, and nothing lifts what a DENY policy or STRICT refuses.
func TestADryRunSaysWhatWouldHaveBecomeOfAConnection(t *testing.T) {
	const letsIn, shop = "<nil> | ", "AuthorizationPolicy shop/"
	for name, c := range map[string]struct {
		policies []AuthorizationPolicy
		strict   bool
		want     string // of a connection to port 80
	}{
		"DENY that matches":                     {[]AuthorizationPolicy{acting(Deny, "shop", "d", onPort(80)).dry()}, false, letsIn + shop + "d: would deny"},
		"DENY that does not":                    {[]AuthorizationPolicy{acting(Deny, "shop", "d", onPort(81)).dry()}, false, letsIn + shop + "d: would allow"},
		"ALLOW that matches":                    {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(80)).dry()}, false, letsIn + shop + "a: would allow"},
		"ALLOW that does not":                   {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(81)).dry()}, false, letsIn + shop + "a: would deny"},
		"one that is not understood":            {[]AuthorizationPolicy{authz("shop", "x", nil).dry()}, false, letsIn + shop + "x: would deny"},
		"ALLOW beside one that allows already":  {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(80)), acting(Allow, "shop", "b", onPort(81)).dry()}, false, letsIn + shop + "b: would allow"},
		"ALLOW of what nothing allows":          {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(81)), acting(Allow, "shop", "b", onPort(80)).dry()}, false, shop + "a: no rule allows it | " + shop + "b: would allow"},
		"ALLOW of what nothing allows, either":  {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(81)), acting(Allow, "shop", "b", onPort(82)).dry()}, false, shop + "a: no rule allows it | " + shop + "b: would deny"},
		"ALLOW of what a DENY refuses":          {[]AuthorizationPolicy{acting(Deny, "shop", "d", Rule{}), acting(Allow, "shop", "b", Rule{}).dry()}, false, shop + "d: rule 0 denies it | " + shop + "b: would deny"},
		"ALLOW of what STRICT refuses":          {[]AuthorizationPolicy{acting(Allow, "shop", "b", Rule{}).dry()}, true, "PeerAuthentication istio-system/default: STRICT, and the connection is plaintext | " + shop + "b: would deny"},
		"ALLOW of what STRICT would refuse":     {[]AuthorizationPolicy{acting(Allow, "shop", "a", onPort(81)), acting(Allow, "shop", "b", Rule{}).dry()}, true, shop + "a: no rule allows it | " + shop + "b: would deny"},
		"those first that would change it":      {[]AuthorizationPolicy{acting(Allow, "shop", "a", Rule{}).dry(), acting(Deny, "shop", "d", Rule{}).dry()}, false, letsIn + shop + "d: would deny; " + shop + "a: would allow"},
		"of another workload":                   {[]AuthorizationPolicy{acting(Deny, "bank", "d", Rule{}).dry()}, false, letsIn},
		"for a waypoint":                        {[]AuthorizationPolicy{{Object: Object{Namespace: "shop", Name: "w"}, TargetRefs: true, DryRun: true}}, false, letsIn},
		"without an effect at layer 4":          {[]AuthorizationPolicy{acting(Audit, "shop", "u", Rule{}).dry(), acting(Custom, "shop", "c", Rule{}).dry()}, false, letsIn},
		"mesh-wide, with a selector of its own": {[]AuthorizationPolicy{{Object: Object{Namespace: root, Name: "d", Selector: Selector{"app": "web"}}, Action: Deny, DryRun: true, Rules: []Rule{{}}}}, false, letsIn + "AuthorizationPolicy istio-system/d: would deny"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Objects{RootNamespace: root, AuthorizationPolicies: c.policies}
			if c.strict {
				o.PeerAuthentications = []PeerAuthentication{mesh(Strict)}
			}
			s := NewSet()
			s.Replace(o)
			if got := rehearse(s, Request{Dst: web, Port: 80}); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestARecordNamesFewDryRuns(t *testing.T) {
	var policies []AuthorizationPolicy
	for i := range 100 {
		policies = append(policies, acting(Deny, "shop", fmt.Sprintf("d%02d", i), Rule{}).dry())
	}
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: policies})
	got := rehearse(s, Request{Peer: client, Dst: web, Port: 80})
	if n := strings.Count(got, "would deny"); n != mostDryRuns || !strings.HasSuffix(got, "; and 92 more") {
		t.Errorf("%d are named: %s", n, got)
	}
}

// count is the connections of a dry run's verdict: allowed so far, and would be denied.
func wouldDeny(s *Set) string {
	var out []string
	for _, d := range s.DryRuns() {
		if d.Verdict == "would_deny" && d.Enforced == "allowed" {
			out = append(out, fmt.Sprintf("%s/%s %d", d.Namespace, d.Name, d.Connections))
		}
	}
	return strings.Join(out, ", ")
}

func TestADryRunCountsForAsLongAsItIsThere(t *testing.T) {
	s := NewSet()
	for _, step := range []struct {
		name     string
		policies []AuthorizationPolicy
		want     string
	}{
		{"it comes", []AuthorizationPolicy{acting(Deny, "shop", "d", Rule{}).dry()}, "shop/d 1"},
		{"another comes", []AuthorizationPolicy{acting(Deny, "shop", "d", Rule{}).dry(), acting(Deny, "shop", "e", Rule{}).dry()}, "shop/d 2, shop/e 1"},
		{"its rules change", []AuthorizationPolicy{acting(Deny, "shop", "d", onPort(80)).dry(), acting(Deny, "shop", "e", Rule{}).dry()}, "shop/d 3, shop/e 2"},
		{"the other one goes", []AuthorizationPolicy{acting(Deny, "shop", "d", onPort(80)).dry()}, "shop/d 4"},
		{"it is enforced", []AuthorizationPolicy{acting(Deny, "shop", "d", onPort(80))}, ""},
		{"it is a dry run again", []AuthorizationPolicy{acting(Deny, "shop", "d", onPort(80)).dry()}, "shop/d 1"},
		{"it goes", nil, ""},
	} {
		s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: step.policies})
		enforced := len(step.policies) > 0 && !step.policies[0].DryRun
		if got := rehearse(s, Request{Peer: client, Dst: web, Port: 80}); strings.HasPrefix(got, "<nil>") == enforced {
			t.Errorf("%s: %s", step.name, got)
		}
		if got := wouldDeny(s); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

// Where no dry run concerns a workload, there is no price for those of others.
func TestWithoutADryRunNothingIsAllocated(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: append(hundred(), acting(Deny, "bank", "d", Rule{}).dry())})
	r := Request{Peer: client, Dst: web, Port: 80}
	if n := testing.AllocsPerRun(100, func() {
		c := s.Concern(r.Dst)
		c.DryRun(&r, c.AllowInbound(&r))
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Each connection keeps its text until its record is written. Thousands that are told the
// same share one.
func TestWhatDryRunsSayStandsInMemoryOnce(t *testing.T) {
	var policies []AuthorizationPolicy
	for i := range 2 * maxTold {
		policies = append(policies, acting(Deny, "shop", fmt.Sprintf("d%02d", i), onPort(uint16(i))).dry())
	}
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: policies})
	c := s.Concern(web)
	for port := range uint16(2) {
		r := Request{Peer: client, Dst: web, Port: port}
		if n := testing.AllocsPerRun(100, func() { c.DryRun(&r, c.AllowInbound(&r)) }); n > 0 {
			t.Errorf("port %d: %v allocations", port, n)
		}
		if got := c.DryRun(&r, nil); !strings.HasPrefix(got, fmt.Sprintf("AuthorizationPolicy shop/d%02d: would deny; ", port)) {
			t.Errorf("port %d: %s", port, got)
		}
	}
	for port := range 2 * maxTold { // of each something else is said
		c.DryRun(&Request{Peer: client, Dst: web, Port: uint16(port)}, nil)
	}
	if n := len(c.told.texts); n > maxTold {
		t.Errorf("%d texts are kept, want at most %d", n, maxTold)
	}
}
