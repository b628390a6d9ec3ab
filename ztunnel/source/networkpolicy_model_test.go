// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The model is the API's documentation on the objects as they are written. Labels are
// compared by Kubernetes' own selectors, addresses by package net.

func modelAdmits(objects []*NetworkPolicy, q networkpolicy.Question) bool {
	isolated := false
	for _, o := range objects {
		if o.Namespace != q.Self.Namespace || !modelSelects(&o.Spec.PodSelector, maps.Collect(q.Self.Labels.All())) {
			continue
		}
		of, types := networkingv1.PolicyTypeIngress, o.Spec.PolicyTypes
		if q.Direction == networkpolicy.Egress {
			of = networkingv1.PolicyTypeEgress
		}
		if len(types) == 0 {
			if types = append(types, networkingv1.PolicyTypeIngress); len(o.Spec.Egress) > 0 {
				types = append(types, networkingv1.PolicyTypeEgress)
			}
		}
		if !slices.Contains(types, of) {
			continue
		}
		isolated = true
		if q.Direction == networkpolicy.Ingress {
			for _, r := range o.Spec.Ingress {
				if modelPeers(r.From, q) && modelPorts(r.Ports, q.Self, q.Port) {
					return true
				}
			}
			continue
		}
		for _, r := range o.Spec.Egress {
			if modelPeers(r.To, q) && modelPorts(r.Ports, q.Peer, q.Port) {
				return true
			}
		}
	}
	return !isolated
}

func modelSelects(s *metav1.LabelSelector, of map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(of))
}

func modelPeers(peers []networkingv1.NetworkPolicyPeer, q networkpolicy.Question) bool {
	for _, p := range peers {
		if p.IPBlock != nil {
			_, cidr, err := net.ParseCIDR(p.IPBlock.CIDR)
			in := err == nil && cidr.Contains(net.ParseIP(q.Addr.String()))
			for _, text := range p.IPBlock.Except {
				_, except, err := net.ParseCIDR(text)
				in = in && err == nil && !except.Contains(net.ParseIP(q.Addr.String()))
			}
			if in {
				return true
			}
			continue
		}
		if q.Peer == nil {
			continue
		}
		namespace, known := castNamespaces("enforce")[q.Peer.Namespace]
		switch {
		case p.NamespaceSelector == nil && q.Peer.Namespace != q.Self.Namespace:
		case p.NamespaceSelector != nil && !known && len(p.NamespaceSelector.MatchLabels)+len(p.NamespaceSelector.MatchExpressions) > 0:
		case p.NamespaceSelector != nil && !modelSelects(p.NamespaceSelector, namespace.Labels):
		case p.PodSelector != nil && !modelSelects(p.PodSelector, maps.Collect(q.Peer.Labels.All())):
		default:
			return true
		}
	}
	return len(peers) == 0
}

func modelPorts(ports []networkingv1.NetworkPolicyPort, of *workload.Workload, number uint16) bool {
	for _, p := range ports {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			if of != nil && slices.Contains(of.Ports, workload.NamedPort{Name: p.Port.StrVal, Port: number}) {
				return true
			}
		case p.EndPort == nil && int(number) == int(p.Port.IntVal):
			return true
		case p.EndPort != nil && int32(number) >= p.Port.IntVal && int32(number) <= *p.EndPort:
			return true
		}
	}
	return len(ports) == 0
}

func some[T any](r dice, most int, one func() T) (out []T) {
	for range r.IntN(most + 1) {
		out = append(out, one())
	}
	return out
}

func randomSelector(r dice, keys, values []string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if r.IntN(2) == 0 {
		s.MatchLabels = map[string]string{one(r, keys...): one(r, values...)}
	}
	s.MatchExpressions = some(r, 1, func() metav1.LabelSelectorRequirement {
		e := metav1.LabelSelectorRequirement{Key: one(r, keys...)}
		e.Operator = one(r, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = append(some(r, 1, func() string { return one(r, values...) }), one(r, values...))
		}
		return e
	})
	return s
}

var podKeys, podValues = []string{"app", "tier", "canary"}, []string{"db", "web", "job", "back", ""}

func randomPods(r dice) *metav1.LabelSelector { return randomSelector(r, podKeys, podValues) }

func randomPeer(r dice) (p networkingv1.NetworkPolicyPeer) {
	switch r.IntN(4) {
	case 0:
		p.IPBlock = &networkingv1.IPBlock{CIDR: one(r, "10.1.0.0/29", "0.0.0.0/0", "10.1.0.2/32", "10.1.0.77/24", "fd00::/64")}
		if r.IntN(2) == 0 && p.IPBlock.CIDR == "10.1.0.0/29" {
			p.IPBlock.Except = []string{one(r, "10.1.0.2/32", "10.1.0.4/30")}
		}
	case 1:
		p.PodSelector = randomPods(r)
	case 2:
		p.PodSelector = randomPods(r)
		fallthrough
	default:
		p.NamespaceSelector = randomSelector(r, []string{"team", "audited"}, []string{"sales", "money", ""})
	}
	return p
}

func randomPort(r dice) (p networkingv1.NetworkPolicyPort) {
	if r.IntN(3) == 0 {
		protocol := one(r, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		p.Protocol = &protocol
	}
	switch r.IntN(4) {
	case 0:
		port := intstr.FromString(one(r, "http", "sql"))
		p.Port = &port
	case 1, 2:
		port := intstr.FromInt32(int32(one(r, 80, 5432, 8080, 8081)))
		p.Port = &port
		if r.IntN(2) == 0 {
			end := port.IntVal + int32(r.IntN(3000))
			p.EndPort = &end
		}
	}
	return p
}

func randomNetworkPolicy(r dice, name string) *NetworkPolicy {
	p := &NetworkPolicy{}
	p.Name, p.Namespace = name, one(r, "shop", "bank")
	p.Spec.PodSelector = *randomPods(r)
	p.Spec.PolicyTypes = slices.Clone(one(r, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"}))
	peers := func() []networkingv1.NetworkPolicyPeer {
		return some(r, 2, func() networkingv1.NetworkPolicyPeer { return randomPeer(r) })
	}
	ports := func() []networkingv1.NetworkPolicyPort {
		return some(r, 2, func() networkingv1.NetworkPolicyPort { return randomPort(r) })
	}
	p.Spec.Ingress = some(r, 2, func() networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: peers(), Ports: ports()}
	})
	p.Spec.Egress = some(r, 2, func() networkingv1.NetworkPolicyEgressRule {
		return networkingv1.NetworkPolicyEgressRule{To: peers(), Ports: ports()}
	})
	return p
}

// everyQuestion is what can be asked of the cast, at ports that policies name and others.
func everyQuestion() (all []networkpolicy.Question) {
	names := slices.Sorted(maps.Keys(cast))
	for _, d := range []networkpolicy.Direction{networkpolicy.Ingress, networkpolicy.Egress} {
		for _, self := range names {
			for _, peer := range append(names, "") {
				for _, port := range []uint16{80, 5432, 8080, 8081, 15008} {
					q := networkpolicy.Question{Direction: d, Self: cast[self], Peer: cast[peer], Port: port, Addr: netip.MustParseAddr("fd00::2")}
					if addr := castAddrs[peer]; addr != "" {
						q.Addr = netip.MustParseAddr(addr)
					}
					all = append(all, q)
				}
			}
		}
	}
	return all
}

func networkInForce(objects []*NetworkPolicy) *networkpolicy.Set {
	b := NewBuilder(options)
	for _, o := range objects {
		_ = b.Set(o) // what cannot be understood has a meaning, too
	}
	s := networkpolicy.NewSet()
	s.Replace(b.Snapshot().NetworkPolicies, castNamespaces("enforce"))
	return s
}

func TestRandomNetworkPoliciesAgreeWithTheModel(t *testing.T) {
	r := dice{rand.New(rand.NewPCG(11, 7))}
	questions := everyQuestion()
	admitted, refused := 0, 0
	for round := range 1000 {
		var objects []*NetworkPolicy
		for i := range 1 + r.IntN(3) {
			objects = append(objects, randomNetworkPolicy(r, fmt.Sprint("p", i)))
		}
		s := networkInForce(objects)
		for _, q := range questions {
			denied, _ := s.Ask(&q)
			if want := modelAdmits(objects, q); want != (denied == nil) {
				t.Fatalf("round %d: %v %v with %v at %d: refused by %v, the model admits: %v\n%+v", round, q.Direction, q.Self, q.Peer, q.Port, denied, want, objects)
			}
			if denied == nil {
				admitted++
			} else {
				refused++
			}
		}
	}
	if admitted < refused/20 || refused < admitted/20 {
		t.Errorf("%d admitted, %d refused: the policies are not random enough", admitted, refused)
	}
}

// spoilt puts something in a policy that is not understood.
var spoilt = []func(p *NetworkPolicy, r dice){
	func(p *NetworkPolicy, r dice) { p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, "Sideways") },
	func(p *NetworkPolicy, r dice) {
		p.Spec.PodSelector.MatchExpressions = append(p.Spec.PodSelector.MatchExpressions, metav1.LabelSelectorRequirement{Key: "app", Operator: "Like"})
	},
	func(p *NetworkPolicy, r dice) {
		p.Unknown = map[string][]string{fmt.Sprintf("spec.ingress[%d]", r.IntN(2)): {"x"}, fmt.Sprintf("spec.egress[%d]", r.IntN(2)): {"x"}}
	},
	func(p *NetworkPolicy, r dice) {
		for i := range p.Spec.Ingress {
			for k := range p.Spec.Ingress[i].From {
				p.Spec.Ingress[i].From[k] = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/08"}}
			}
		}
	},
	func(p *NetworkPolicy, r dice) {
		for i := range p.Spec.Egress {
			for k := range p.Spec.Egress[i].To {
				p.Spec.Egress[i].To[k] = networkingv1.NetworkPolicyPeer{}
			}
		}
	},
	func(p *NetworkPolicy, r dice) {
		port, end := intstr.FromInt32(-1), int32(1<<16)
		for i := range p.Spec.Ingress {
			for k := range p.Spec.Ingress[i].Ports {
				p.Spec.Ingress[i].Ports[k] = networkingv1.NetworkPolicyPort{Port: &port}
			}
		}
		for i := range p.Spec.Egress {
			for k := range p.Spec.Egress[i].Ports {
				p.Spec.Egress[i].Ports[k] = networkingv1.NetworkPolicyPort{EndPort: &end}
			}
		}
	},
}

func TestASpoiltNetworkPolicyNeverAdmitsMore(t *testing.T) {
	r := dice{rand.New(rand.NewPCG(5, 23))}
	questions := everyQuestion()
	for round := range 600 {
		p := randomNetworkPolicy(r, "p")
		before := networkInForce([]*NetworkPolicy{p})
		worse := p.DeepCopyObject().(*NetworkPolicy)
		how := round % len(spoilt)
		spoilt[how](worse, r)
		after := networkInForce([]*NetworkPolicy{worse})
		for _, q := range questions {
			was, _ := before.Ask(&q)
			is, _ := after.Ask(&q)
			if was != nil && is == nil {
				t.Fatalf("spoilt by %d: %v %v with %v at %d was refused by %v, and is admitted\n%+v", how, q.Direction, q.Self, q.Peer, q.Port, was, worse)
			}
		}
	}
}

// FuzzNetworkPolicy puts any words into all fields of a rule that hold some. What means
// nothing is said, and admits nobody.
func FuzzNetworkPolicy(f *testing.F) {
	for _, word := range []string{"", "*", "app", "a b", "a\x00b", "10.0.0.0/33", "10.0.0.77/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "fe80::1%eth0/64", "8080", "http", "-"} {
		f.Add(uint8(0), word, int32(80), int32(81))
		f.Add(uint8(1), word, int32(0), int32(65536))
		f.Add(uint8(4), word, int32(80), int32(81))
	}
	questions := everyQuestion()
	f.Fuzz(func(t *testing.T, field uint8, word string, first, last int32) {
		p := &NetworkPolicy{}
		p.Name, p.Namespace = "p", "shop"
		var peer networkingv1.NetworkPolicyPeer
		port, protocol := intstr.FromInt32(first), corev1.ProtocolTCP
		ports := []networkingv1.NetworkPolicyPort{{Port: &port, EndPort: &last, Protocol: &protocol}}
		switch field % 6 {
		case 0:
			peer.IPBlock = &networkingv1.IPBlock{CIDR: word}
		case 1:
			peer.IPBlock = &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{word}}
		case 2:
			peer.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": word, word: "web"}}
		case 3:
			peer.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOperator(word)}}}
		case 4:
			peer.PodSelector = &metav1.LabelSelector{}
			protocol = corev1.Protocol(word)
		default:
			peer.PodSelector, port, ports[0].EndPort = &metav1.LabelSelector{}, intstr.FromString(word), nil
		}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}
		wrong := p.Check() != nil
		s := networkInForce([]*NetworkPolicy{p})
		for _, q := range questions {
			denied, _ := s.Ask(&q)
			if q.Direction == networkpolicy.Egress || q.Self.Namespace != "shop" {
				continue
			}
			if wrong && denied == nil {
				t.Fatalf("%+v means nothing, and admits %v at %d", p.Spec, q.Peer, q.Port)
			}
			if !wrong && field%6 != 1 && (denied == nil) != modelAdmits([]*NetworkPolicy{p}, q) {
				t.Fatalf("%+v: %v at %d: %v, not as the model", p.Spec, q.Peer, q.Port, denied)
			}
		}
	})
}
