// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The model is the API's documentation, read word by word and without any thought of
// speed. It shares no code with the product: strings are compared as they stand in the
// object, and addresses are read by package net.

// truth is what a thing in a rule says of a request.
type truth int

const (
	no truth = iota
	yes
	unclear // it cannot be judged
)

// asks is a request in the words of the documentation.
type asks struct {
	principal, trustDomain, namespace, account string // empty: not authenticated
	src, dst                                   string
	port                                       uint16
	excepting                                  bool // fields with "not" are asked of nobody's account
}

func modelled(r policy.Request) asks {
	a := asks{src: r.Src.String(), dst: r.Addr.String(), port: r.Port}
	if !r.Peer.IsZero() {
		a.principal = strings.Replace(r.Peer.String(), "spiffe://", "", 1)
		parts := strings.Split(a.principal, "/")
		a.trustDomain = parts[0]
		if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" {
			a.namespace, a.account = parts[2], parts[2]+"/"+parts[4]
		}
	}
	return a
}

// wildcard is "exact, prefix, suffix and presence match".
func wildcard(value, got string) truth {
	impossible := func(c rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-*", c)
	}
	switch {
	case value == "" || strings.ContainsFunc(value, impossible):
		return unclear
	case got == "":
		return no
	case value == "*", value == got,
		value[0] == '*' && strings.HasSuffix(got, value[1:]),
		value[0] != '*' && value[len(value)-1] == '*' && strings.HasPrefix(got, value[:len(value)-1]):
		return yes
	}
	return no
}

func block(value, got string) truth {
	ip := net.ParseIP(got)
	if one := net.ParseIP(value); one != nil {
		return said(one.Equal(ip))
	}
	_, cidr, err := net.ParseCIDR(value)
	if err != nil {
		return unclear
	}
	return said(cidr.Contains(ip))
}

func portIs(value string, got uint16) truth {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != value {
		return unclear
	}
	return said(n == int(got))
}

func said(b bool) truth {
	if b {
		return yes
	}
	return no
}

// listed is a field: one of its values.
func listed(values []string, judge func(string) truth) truth {
	if values == nil {
		return yes
	}
	if len(values) == 0 {
		return unclear
	}
	result := no
	for _, v := range values {
		switch judge(v) {
		case unclear:
			return unclear
		case yes:
			result = yes
		}
	}
	return result
}

func none(values []string, judge func(string) truth) truth {
	if values == nil {
		return yes
	}
	switch listed(values, judge) {
	case yes:
		return no
	case no:
		return yes
	}
	return unclear
}

func absent(values []string) truth {
	if values == nil {
		return yes
	}
	return unclear
}

func (a asks) source(s *Peer, namespace string) []truth {
	if s == nil {
		return []truth{unclear}
	}
	if all := [][]string{s.Principals, s.NotPrincipals, s.Namespaces, s.NotNamespaces, s.ServiceAccounts, s.NotServiceAccounts, s.TrustDomains, s.NotTrustDomains,
		s.IPBlocks, s.NotIPBlocks, s.RemoteIPBlocks, s.NotRemoteIPBlocks, s.RequestPrincipals, s.NotRequestPrincipals}; !slices.ContainsFunc(all, func(l []string) bool { return l != nil }) {
		return []truth{unclear}
	}
	principal := func(v string) truth { return wildcard(v, a.principal) }
	inNamespace := func(a asks) func(v string) truth {
		return func(v string) truth {
			if strings.Contains(v, "/") {
				return unclear
			}
			return wildcard(v, a.namespace)
		}
	}
	domain := func(v string) truth {
		if strings.Contains(v, "/") {
			return unclear
		}
		return wildcard(v, a.trustDomain)
	}
	account := func(a asks) func(v string) truth {
		return func(v string) truth {
			if !strings.Contains(v, "/") {
				v = namespace + "/" + v
			}
			if strings.Count(v, "/") != 1 || strings.ContainsAny(v, "*\x00 :") || strings.HasSuffix(v, "/") {
				return unclear
			}
			return said(v == a.account)
		}
	}
	from := func(v string) truth { return block(v, a.src) }
	return []truth{
		listed(s.Principals, principal), none(s.NotPrincipals, principal), listed(s.Namespaces, inNamespace(a)), none(s.NotNamespaces, inNamespace(a.excepted())),
		listed(s.TrustDomains, domain), none(s.NotTrustDomains, domain), listed(s.ServiceAccounts, account(a)), none(s.NotServiceAccounts, account(a.excepted())),
		listed(s.IPBlocks, from), none(s.NotIPBlocks, from),
		absent(s.RemoteIPBlocks), absent(s.NotRemoteIPBlocks), absent(s.RequestPrincipals), absent(s.NotRequestPrincipals),
	}
}

func (a asks) operation(o *Operation) []truth {
	if o == nil {
		return []truth{unclear}
	}
	if all := [][]string{o.Ports, o.NotPorts, o.Hosts, o.NotHosts, o.Methods, o.NotMethods, o.Paths, o.NotPaths}; !slices.ContainsFunc(all, func(l []string) bool { return l != nil }) {
		return []truth{unclear}
	}
	port := func(v string) truth { return portIs(v, a.port) }
	return []truth{listed(o.Ports, port), none(o.NotPorts, port),
		absent(o.Hosts), absent(o.NotHosts), absent(o.Methods), absent(o.NotMethods), absent(o.Paths), absent(o.NotPaths)}
}

func (a asks) condition(c *Condition) []truth {
	if c == nil || c.Values == nil && c.NotValues == nil {
		return []truth{unclear}
	}
	judge, known := map[string]func(string) truth{
		"source.ip":        func(v string) truth { return block(v, a.src) },
		"source.namespace": func(v string) truth { return wildcard(v, a.namespace) },
		"source.principal": func(v string) truth { return wildcard(v, a.principal) },
		"destination.ip":   func(v string) truth { return block(v, a.dst) },
		"destination.port": func(v string) truth { return portIs(v, a.port) },
	}[c.Key]
	if !known {
		return []truth{unclear}
	}
	not := judge
	if c.Key == "source.namespace" {
		not = func(v string) truth { return wildcard(v, a.excepted().namespace) }
	}
	return []truth{listed(c.Values, judge), none(c.NotValues, not)}
}

// ruleMatches is "one of from, one of to and all of when". In an ALLOW policy a rule that
// holds what is unclear matches nothing; elsewhere what is unclear is true.
func (a asks) ruleMatches(r *Rule, namespace string, allow bool) bool {
	holds := false
	all := func(parts []truth) bool {
		holds = holds || slices.Contains(parts, unclear)
		return !slices.Contains(parts, no)
	}
	if r == nil {
		return !allow
	}
	from, to, when := r.From == nil, r.To == nil, true
	for _, f := range r.From {
		var s *Peer
		if f != nil {
			s = f.Source
		}
		from = all(a.source(s, namespace)) || from
	}
	for _, o := range r.To {
		var op *Operation
		if o != nil {
			op = o.Operation
		}
		to = all(a.operation(op)) || to
	}
	for _, c := range r.When {
		when = all(a.condition(c)) && when
	}
	if r.From != nil && len(r.From) == 0 || r.To != nil && len(r.To) == 0 || r.When != nil && len(r.When) == 0 {
		holds = true
		from, to = from || len(r.From) == 0, to || len(r.To) == 0
	}
	return from && to && when && !(allow && holds)
}

// modelAllows is the documentation's "Authorization policy precedence".
func modelAllows(policies []*AuthorizationPolicy, dst workload.Workload, a asks) bool {
	foreign := a.trustDomain != "" && a.trustDomain != dst.ID.TrustDomain().Name()
	allowing, allowed := foreign, false
	for _, p := range policies {
		if p.Namespace != DefaultRootNamespace && p.Namespace != dst.Namespace {
			continue
		}
		selected := true
		if p.Spec.Selector != nil {
			for k, v := range p.Spec.Selector.MatchLabels {
				got, _ := dst.Labels.Get(k)
				selected = selected && got == v
			}
		}
		if !selected || p.Spec.TargetRef != nil || p.Spec.Action == "AUDIT" || p.Spec.Action == "CUSTOM" {
			continue
		}
		allow := p.Spec.Action == "" || p.Spec.Action == "ALLOW"
		a := a.read(foreign, allow)
		matches := slices.ContainsFunc(p.Spec.Rules, func(r *Rule) bool {
			return a.ruleMatches(r, p.Namespace, allow) && (!foreign || !allow || a.named(r, p.Namespace))
		})
		switch {
		case allow:
			allowing, allowed = true, allowed || matches
		case matches:
			return false
		}
	}
	return !allowing || allowed
}

// dice makes random policies and requests of few words, so that they meet.
type dice struct{ *rand.Rand }

func one[T any](d dice, values ...T) T { return values[d.IntN(len(values))] }

// some returns a list; of ten three are not there, and few hold what means nothing.
func (d dice) some(odds int, values, garbage []string) []string {
	if d.IntN(10) >= odds {
		return nil
	}
	out := []string{}
	if d.IntN(20) == 0 {
		return out
	}
	for range 1 + d.IntN(3) {
		out = append(out, one(d, values...))
	}
	if d.IntN(12) == 0 {
		out = append(out, one(d, garbage...))
	}
	return out
}

var (
	principals   = []string{"*", "cluster.local/ns/shop/sa/web", "cluster.local/ns/shop/*", "*/sa/web", "cluster.local/ns/bank/sa/a.b", "other.example/*", "cluster.local/ns/*/sa/web"}
	namespaces   = []string{"*", "shop", "bank", "sh*", "*k"}
	someAccounts = []string{"web", "shop/web", "bank/a.b", "bank/web"}
	domains      = []string{"*", "cluster.local", "*.example", "other.example"}
	blocks       = []string{"10.0.0.0/24", "10.0.0.1", "10.0.0.77/30", "fd00::/8", "0.0.0.0/0", "::ffff:10.0.0.0/120", "10.0.1.1"}
	ports        = []string{"80", "443", "8080"}
	garbage      = []string{"", "a b", "x:y", "a/b/c\x00", "spiffe://x"}
)

func (d dice) rule() *Rule {
	if d.IntN(40) == 0 {
		return nil
	}
	r := &Rule{}
	for range d.IntN(3) {
		s := &Peer{Principals: d.some(4, principals, garbage), NotPrincipals: d.some(1, principals, garbage),
			Namespaces: d.some(3, namespaces, garbage), NotNamespaces: d.some(1, namespaces, garbage), ServiceAccounts: d.some(1, someAccounts, garbage),
			NotServiceAccounts: d.some(1, someAccounts, garbage), TrustDomains: d.some(1, domains, garbage), NotTrustDomains: d.some(1, domains, garbage),
			IPBlocks: d.some(2, blocks, garbage), NotIPBlocks: d.some(1, blocks, garbage)}
		if d.IntN(20) == 0 {
			s.RemoteIPBlocks = blocks
		}
		r.From = append(r.From, &From{s})
	}
	for range d.IntN(3) {
		o := &Operation{Ports: d.some(5, ports, garbage), NotPorts: d.some(2, ports, garbage)}
		if d.IntN(20) == 0 {
			o.Methods = []string{"GET"}
		}
		r.To = append(r.To, &To{o})
	}
	for range d.IntN(2) {
		key := one(d, "source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port", "request.headers[x]")
		pool := map[string][]string{"source.ip": blocks, "destination.ip": blocks, "source.namespace": namespaces, "source.principal": principals, "destination.port": ports}[key]
		if pool == nil {
			pool = ports
		}
		r.When = append(r.When, &Condition{Key: key, Values: d.some(7, pool, garbage), NotValues: d.some(3, pool, garbage)})
	}
	return r
}

func (d dice) policies() (out []*AuthorizationPolicy) {
	for i := range 1 + d.IntN(4) {
		p := &AuthorizationPolicy{}
		p.Name, p.Namespace = fmt.Sprint("p", i), one(d, "shop", "shop", DefaultRootNamespace, "bank")
		p.Spec.Action = one(d, "", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM")
		if d.IntN(2) == 0 {
			p.Spec.Selector = &Selector{MatchLabels: one(d, map[string]string{"app": "db"}, map[string]string{"app": "web"}, nil)}
		}
		for range d.IntN(4) {
			p.Spec.Rules = append(p.Spec.Rules, d.rule())
		}
		out = append(out, p)
	}
	return out
}

func (d dice) request() policy.Request {
	r := policy.Request{Dst: guarded, Port: one(d, uint16(80), 443, 8080, 1)}
	r.Src, r.Addr = netip.MustParseAddr(one(d, "10.0.0.1", "10.0.0.78", "10.9.0.1")), netip.MustParseAddr("10.0.1.1")
	if d.IntN(3) == 0 {
		r.Src, r.Addr = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
	}
	r.Peer = one(d, spiffeid.ID{}, spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"), spiffeid.RequireFromString("spiffe://cluster.local/ns/bank/sa/a.b"),
		spiffeid.RequireFromString("spiffe://cluster.local/ns/bank/sa/axb"), spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web"),
		spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web/x"))
	return r
}

// inForce is what a source makes of them, each for the first time.
func inForce(policies []*AuthorizationPolicy) *policy.Set {
	b := NewBuilder(options)
	for _, p := range policies {
		_ = b.Set(p) // what is not understood refuses
	}
	s := policy.NewSet()
	s.Replace(b.Snapshot().Policies)
	return s
}

func TestRandomPoliciesAgreeWithTheModel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(11, 2))}
	let, refused := 0, 0
	for range 1000 {
		policies := d.policies()
		s := inForce(policies)
		for range 20 {
			r := d.request()
			want, err := modelAllows(policies, guarded, modelled(r)), s.AllowInbound(r)
			if want {
				let++
			} else {
				refused++
			}
			if (err == nil) != want {
				t.Fatalf("%+v: %v, and the model says %v\n%s", r, err, want, written(policies))
			}
		}
	}
	if let < 2000 || refused < 2000 {
		t.Errorf("%d let in, %d refused: the dice are loaded", let, refused)
	}
}

// A dry run decides nothing, and says what would be decided if it were enforced: both as
// the policies say that are the same without the annotation.
func TestRandomDryRunsAgreeWithTheModel(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(11, 4))}
	would := map[string]int{}
	for range 1000 {
		policies := d.policies()
		dry := policies[d.IntN(len(policies))]
		dry.Annotations = map[string]string{DryRun: "true"}
		s := inForce(policies)
		for range 20 {
			r := d.request()
			c := s.Concern(r.Dst)
			err := c.AllowInbound(&r)
			others := slices.DeleteFunc(slices.Clone(policies), func(p *AuthorizationPolicy) bool { return p == dry })
			if want := modelAllows(others, guarded, modelled(r)); (err == nil) != want {
				t.Fatalf("%+v: %v, and the model says %v\n%s", r, err, want, written(policies))
			}
			_, said, _ := strings.Cut(c.DryRun(&r, err), ": ")
			if said == "" { // it does not concern the workload, or does nothing
				continue
			}
			would[said]++
			want := "would deny"
			if modelAllows(policies, guarded, modelled(r)) {
				want = "would allow"
			}
			if said != want {
				t.Fatalf("%+v: %v, %s, and the model says %s\n%s", r, err, said, want, written(policies))
			}
		}
	}
	if would["would allow"] < 1000 || would["would deny"] < 1000 {
		t.Errorf("%v: the dice are loaded", would)
	}
}
