// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
)

// NetworkPolicy is networking.k8s.io's object of that kind.
type NetworkPolicy struct {
	networkingv1.NetworkPolicy `json:",inline"`

	// Unknown is the fields of a rule that this version does not know, by the rule's path.
	Unknown map[string][]string `json:"-"`
}

// DeepCopyObject makes it a runtime.Object of our own type.
func (p *NetworkPolicy) DeepCopyObject() runtime.Object {
	return &NetworkPolicy{*p.DeepCopy(), p.Unknown} // nobody writes to it
}

// Judge takes what a strict decoder said of p, as AuthorizationPolicy.Judge does: a rule
// with a field that it did not know admits nobody.
func (p *NetworkPolicy) Judge(err error) (unjudged error) {
	p.Unknown, unjudged = unknownFields(err, unknownInSide)
	return unjudged
}

var unknownInSide = regexp.MustCompile(`^unknown field "((spec\.(?:ingress|egress)\[[0-9]{1,9}\])\..+)"$`)

// Policy returns what the object means. A peer, port or rule that cannot be judged admits
// nobody, and is in its Warnings. An error is in what cannot be left out of it.
func (p *NetworkPolicy) Policy() (networkpolicy.Policy, error) {
	out, _, err := p.judged()
	return out, err
}

// Problems are what is wrong with the object, as far as they are kept.
func (p *NetworkPolicy) Problems() []*Problem {
	_, j, err := p.judged()
	return append(problems(err), j.problems...)
}

// Warnings say what cannot be judged, as in Policy.
func (p *NetworkPolicy) Warnings() []string {
	out, _, _ := p.judged() // that it is an error is said elsewhere
	return out.Warnings
}

// Check returns every field that means nothing.
func (p *NetworkPolicy) Check() error {
	_, j, err := p.judged()
	return errors.Join(append(j.malformed, err)...)
}

func (p *NetworkPolicy) judged() (out networkpolicy.Policy, j judge, err error) {
	j = judge{unknown: p.Unknown}
	pods, wrong := podSelector("spec.podSelector", &p.Spec.PodSelector)
	errs := []error{wrong}
	out = networkpolicy.Policy{Namespace: p.Namespace, Name: p.Name, Pods: pods}
	if len(p.Spec.PolicyTypes) == 0 {
		out.Ingress.Isolates, out.Egress.Isolates = true, len(p.Spec.Egress) > 0
	}
	for i, of := range p.Spec.PolicyTypes {
		switch of {
		case networkingv1.PolicyTypeIngress:
			out.Ingress.Isolates = true
		case networkingv1.PolicyTypeEgress:
			out.Egress.Isolates = true
		default:
			errs = append(errs, problem(BadField, fmt.Sprintf("spec.policyTypes[%d]", i), "%.80q: not Ingress or Egress", of))
		}
	}
	for i, r := range p.Spec.Ingress {
		j.admits(&out.Ingress, i, fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports)
	}
	for i, r := range p.Spec.Egress {
		j.admits(&out.Egress, i, fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports)
	}
	out.Warnings = j.told()
	return out, j, errors.Join(errs...)
}

// admits adds a rule to a side that isolates. A rule that names peers or ports and is left
// with none admits nobody: without any it would admit all.
func (j *judge) admits(side *networkpolicy.Side, index int, path, field string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	rule := networkpolicy.Rule{Index: index}
	for i := range peers {
		if peer, ok := j.networkPeer(fmt.Sprintf("%s.%s[%d]", path, field, i), &peers[i]); ok {
			rule.Peers = append(rule.Peers, peer)
		}
	}
	for i := range ports {
		if port, ok := j.networkPort(fmt.Sprintf("%s.ports[%d]", path, i), &ports[i]); ok {
			rule.Ports = append(rule.Ports, port)
		}
	}
	for _, unknown := range j.unknown[path] {
		j.cannot(UnknownField, unknown, "not known to this version")
	}
	nobody := len(peers) > 0 && len(rule.Peers) == 0 || len(ports) > 0 && len(rule.Ports) == 0
	if side.Isolates && !nobody && len(j.unknown[path]) == 0 {
		side.Rules = append(side.Rules, rule)
	}
}

// networkPeer returns false for one that cannot be judged.
func (j *judge) networkPeer(path string, p *networkingv1.NetworkPolicyPeer) (out networkpolicy.Peer, ok bool) {
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock != nil && selects:
		j.wrong(BadField, path+".ipBlock", "not together with a selector")
		return out, false
	case p.IPBlock != nil:
		out.Block, ok = j.block(path+".ipBlock", p.IPBlock)
		return out, ok
	case !selects:
		j.wrong(BadField, path, "names nobody")
		return out, false
	}
	for _, s := range []struct {
		field string
		from  *metav1.LabelSelector
		into  **networkpolicy.Selector
	}{{"podSelector", p.PodSelector, &out.Pods}, {"namespaceSelector", p.NamespaceSelector, &out.Namespaces}} {
		if s.from == nil {
			continue
		}
		selector, err := podSelector(path+"."+s.field, s.from)
		if err != nil {
			var p *Problem
			if errors.As(err, &p) {
				j.wrong(p.Code, p.Field, "%s", p.Text)
			}
			return out, false
		}
		*s.into = &selector
	}
	return out, true
}

func (j *judge) block(path string, b *networkingv1.IPBlock) (*networkpolicy.Block, bool) {
	whole, err := cidr(b.CIDR)
	if err != nil {
		j.wrong(err.Code, path+".cidr", "%.80q: %s", b.CIDR, err.Text)
		return nil, false
	}
	out := &networkpolicy.Block{CIDR: whole}
	for i, text := range b.Except {
		except, err := cidr(text)
		if err != nil || !whole.Overlaps(except) || except.Bits() <= whole.Bits() {
			j.wrong(BadAddress, fmt.Sprintf("%s.except[%d]", path, i), "%.80q: not a CIDR within %v", text, whole)
			return nil, false // without it the block would be wider
		}
		out.Except = append(out.Except, except)
	}
	return out, true
}

// cidr reads one. An address alone is none, as to the API server.
func cidr(text string) (netip.Prefix, *Problem) {
	if !strings.Contains(text, "/") {
		return netip.Prefix{}, problem(BadAddress, "", "not a CIDR")
	}
	return prefix(text)
}

// networkPort returns false for one that is no TCP port, or cannot be judged.
func (j *judge) networkPort(path string, p *networkingv1.NetworkPolicyPort) (out networkpolicy.Port, ok bool) {
	if p.Protocol != nil {
		switch *p.Protocol {
		case corev1.ProtocolTCP:
		case corev1.ProtocolUDP, corev1.ProtocolSCTP:
			return out, false
		default:
			j.wrong(BadField, path+".protocol", "%.80q: not TCP, UDP or SCTP", *p.Protocol)
			return out, false
		}
	}
	numeric := p.Port != nil && p.Port.Type == intstr.Int
	switch {
	case p.EndPort != nil && !numeric:
		j.wrong(BadPort, path+".endPort", "needs a port that is a number")
	case p.Port == nil:
		return networkpolicy.Port{Last: 1<<16 - 1}, true
	case !numeric && len(validation.IsValidPortName(p.Port.StrVal)) > 0:
		j.wrong(BadPort, path+".port", "%.80q: not the name of a port", p.Port.StrVal)
	case !numeric:
		return networkpolicy.Port{Name: p.Port.StrVal}, true
	default:
		return j.portRange(path, p.Port.IntVal, p.EndPort)
	}
	return out, false
}

func (j *judge) portRange(path string, from int32, to *int32) (out networkpolicy.Port, ok bool) {
	first, ok := portNumber(from)
	if !ok {
		j.wrong(BadPort, path+".port", "%d: not a port from 1 to 65535", from)
		return out, false
	}
	last := first
	if to != nil {
		if last, ok = portNumber(*to); !ok || last < first {
			j.wrong(BadPort, path+".endPort", "%d: not a port from %d to 65535", *to, first)
			return out, false
		}
	}
	return networkpolicy.Port{First: first, Last: last}, true
}

// podSelector reads a selector of pods or of namespaces. It returns an error for what the
// API server would refuse: of requirements, one that is left out selects more.
func podSelector(path string, s *metav1.LabelSelector) (networkpolicy.Selector, error) {
	if err := checkLabels(path+".matchLabels", s.MatchLabels); err != nil {
		return nil, err
	}
	out := networkpolicy.Selector{}
	for _, key := range sortedKeys(s.MatchLabels) {
		out = append(out, networkpolicy.Requirement{Key: key, Operator: networkpolicy.In, Values: []string{s.MatchLabels[key]}})
	}
	for i, e := range s.MatchExpressions {
		path := fmt.Sprintf("%s.matchExpressions[%d]", path, i)
		r := networkpolicy.Requirement{Key: e.Key, Operator: networkpolicy.Operator(e.Operator), Values: e.Values}
		if len(validation.IsQualifiedName(e.Key)) > 0 {
			return nil, problem(BadField, path+".key", "%.80q: not the key of a label", e.Key)
		}
		switch r.Operator {
		case networkpolicy.In, networkpolicy.NotIn:
			if len(e.Values) == 0 {
				return nil, problem(BadField, path+".values", "required with %s", e.Operator)
			}
		case networkpolicy.Exists, networkpolicy.DoesNotExist:
			if len(e.Values) > 0 {
				return nil, problem(BadField, path+".values", "not together with %s", e.Operator)
			}
		default:
			return nil, problem(BadField, path+".operator", "%.80q: not In, NotIn, Exists or DoesNotExist", e.Operator)
		}
		for k, v := range e.Values {
			if len(validation.IsValidLabelValue(v)) > 0 {
				return nil, problem(BadField, fmt.Sprintf("%s.values[%d]", path, k), "%.80q: not the value of a label", v)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// StrangeMode says what means nothing in the label of a Namespace about NetworkPolicies;
// empty: nothing.
func StrangeMode(o Object) string {
	ns, is := o.(*corev1.Namespace)
	if !is {
		return ""
	}
	if _, strange := networkpolicy.ModeOf(ns.Labels); !strange {
		return ""
	}
	return fmt.Sprintf("metadata.labels[%s]: %q: not %s, %s or %s", networkpolicy.ModeLabel, ns.Labels[networkpolicy.ModeLabel],
		networkpolicy.Enforce, networkpolicy.Warn, networkpolicy.Off)
}

// namespaceLabels returns the labels of o. A mode that means nothing is left out: the one
// before stays in force.
func (b *Builder) namespaceLabels(o *corev1.Namespace) map[string]string {
	before, had := b.namespaces[o.Name].Labels[networkpolicy.ModeLabel]
	if !had || StrangeMode(o) == "" {
		return o.Labels
	}
	labels := maps.Clone(o.Labels)
	labels[networkpolicy.ModeLabel] = before
	return labels
}
