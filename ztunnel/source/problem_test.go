// SPDX-License-Identifier: Apache-2.0

package source

import (
	"slices"
	"testing"
)

// Tools go by codes, people by what stands behind them.
func TestProblemsHaveCodes(t *testing.T) {
	ap := AuthorizationPolicy{Spec: AuthorizationPolicySpec{Action: "allow", Rules: []*Rule{
		{From: []*From{{Source: &Peer{Principals: []string{"spiffe://a/ns/b/sa/c", "a*b"}, IPBlocks: []string{"10.0.0.0/33"}, RemoteIPBlocks: []string{"::/0"}}}}},
		{To: []*To{{Operation: &Operation{Ports: []string{"http"}, Methods: []string{"GET"}}}}, When: []*Condition{{Key: "request.headers[a]", Values: []string{"b"}}, {Key: "source.ips", Values: []string{"b"}}}},
		{From: []*From{}},
		nil,
	}}, Unknown: map[string][]string{"spec.rules[3]": {"spec.rules[3].via"}}}
	ap.Annotations = map[string]string{DryRun: "yes"}
	for _, c := range []struct {
		got  []*Problem
		want []Code
	}{
		{ap.Problems(), []Code{BadField, DryRunValue, StarInside, SpiffeScheme, BadAddress, RemoteIP, BadPort, Layer7, Layer7, UnknownKey, EmptyList, UnknownField, EmptyList}},
		{(&AuthorizationPolicy{Spec: AuthorizationPolicySpec{Action: "AUDIT"}}).Problems(), []Code{NoEffect}},
		{(&AuthorizationPolicy{Spec: AuthorizationPolicySpec{TargetRef: &TargetRef{}}}).Problems(), []Code{TargetRefs}},
		{(&AuthorizationPolicy{Spec: AuthorizationPolicySpec{Rules: []*Rule{{From: []*From{{Source: &Peer{Namespaces: []string{""}}}}}}}}).Problems(), []Code{BadName}},
		{(&PeerAuthentication{Spec: PeerAuthenticationSpec{MTLS: &MTLS{"strict"}, PortLevelMTLS: map[string]MTLS{"080": {}}}}).Problems(), []Code{BadField, PortsOfNobody, BadPort}},
		{(&PeerAuthentication{}).Problems(), nil},
	} {
		var got []Code
		for _, p := range c.got {
			got = append(got, p.Code)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("got %v, want %v, of %v", got, c.want, c.got)
		}
	}
}

// Of an object that is wrong throughout the first problems are kept, and the rest counted.
func TestProblemsBeyondTheBoundAreCounted(t *testing.T) {
	ports := slices.Repeat([]string{"http"}, maxWarnings+5)
	all := (&AuthorizationPolicy{Spec: AuthorizationPolicySpec{Rules: []*Rule{{To: []*To{{Operation: &Operation{Ports: ports}}}}}}}).Problems()
	if len(all) != maxWarnings+1 || *all[maxWarnings] != (Problem{BadPort, "spec.rules", "and 5 more"}) {
		t.Errorf("got %d, the last of which is %+v", len(all), all[len(all)-1])
	}
}
