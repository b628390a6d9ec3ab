// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"regexp"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// AuthorizationPolicy is security.istio.io's object of that kind.
type AuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AuthorizationPolicySpec `json:"spec"`
	Status            map[string]any          `json:"status,omitempty"`

	// Unknown is the fields of a rule that this version does not know, by the rule's path.
	Unknown map[string][]string `json:"-"`
}

// AuthorizationPolicySpec is what an AuthorizationPolicy asks for.
type AuthorizationPolicySpec struct {
	Selector   *Selector   `json:"selector,omitempty"`
	TargetRef  *TargetRef  `json:"targetRef,omitempty"`
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	Action     string      `json:"action,omitempty"`
	Provider   *Provider   `json:"provider,omitempty"`
	Rules      []*Rule     `json:"rules,omitzero"`
}

// TargetRef names what a policy is attached to instead of workloads.
type TargetRef struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// Provider names a CUSTOM action's authorizer.
type Provider struct {
	Name string `json:"name,omitempty"`
}

// In what follows a list that is there and empty is not one that is not there: somebody's
// template had no values for it. Nor is a null in a list an object that says nothing.

// Rule matches if one of From, one of To and all of When do.
type Rule struct {
	From []*From      `json:"from,omitzero"`
	To   []*To        `json:"to,omitzero"`
	When []*Condition `json:"when,omitzero"`
}

// From holds a source.
type From struct {
	Source *Peer `json:"source,omitzero"`
}

// Peer is where a connection comes from.
type Peer struct {
	Principals           []string `json:"principals,omitzero"`
	NotPrincipals        []string `json:"notPrincipals,omitzero"`
	RequestPrincipals    []string `json:"requestPrincipals,omitzero"`
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitzero"`
	Namespaces           []string `json:"namespaces,omitzero"`
	NotNamespaces        []string `json:"notNamespaces,omitzero"`
	ServiceAccounts      []string `json:"serviceAccounts,omitzero"`
	NotServiceAccounts   []string `json:"notServiceAccounts,omitzero"`
	TrustDomains         []string `json:"trustDomains,omitzero"`
	NotTrustDomains      []string `json:"notTrustDomains,omitzero"`
	IPBlocks             []string `json:"ipBlocks,omitzero"`
	NotIPBlocks          []string `json:"notIpBlocks,omitzero"`
	RemoteIPBlocks       []string `json:"remoteIpBlocks,omitzero"`
	NotRemoteIPBlocks    []string `json:"notRemoteIpBlocks,omitzero"`
}

// To holds an operation.
type To struct {
	Operation *Operation `json:"operation,omitzero"`
}

// Operation is what a connection wants.
type Operation struct {
	Hosts      []string `json:"hosts,omitzero"`
	NotHosts   []string `json:"notHosts,omitzero"`
	Ports      []string `json:"ports,omitzero"`
	NotPorts   []string `json:"notPorts,omitzero"`
	Methods    []string `json:"methods,omitzero"`
	NotMethods []string `json:"notMethods,omitzero"`
	Paths      []string `json:"paths,omitzero"`
	NotPaths   []string `json:"notPaths,omitzero"`
}

// Condition is one attribute's values.
type Condition struct {
	Key       string   `json:"key"`
	Values    []string `json:"values,omitzero"`
	NotValues []string `json:"notValues,omitzero"`
}

// DryRun is the annotation of an AuthorizationPolicy that is not enforced.
const DryRun = "istio.io/dry-run"

// isDryRun is false for what means nothing.
func (p *AuthorizationPolicy) isDryRun() bool {
	is, err := strconv.ParseBool(p.Annotations[DryRun])
	return err == nil && is
}

// Policy returns what the object means. What cannot be judged narrows that, and is in
// its Warnings. An error is in what cannot be left out of it.
func (p *AuthorizationPolicy) Policy() (policy.AuthorizationPolicy, error) {
	out, _, err := p.judged()
	return out, err
}

// Problems are what is wrong with the object, or cannot be judged. The last one counts
// those that are too many to keep.
func (p *AuthorizationPolicy) Problems() []*Problem {
	_, j, err := p.judged()
	all := append(problems(err), j.problems...)
	if n := j.warned - maxWarnings; n > 0 {
		all = append(all, problem(all[len(all)-1].Code, "spec.rules", "and %d more", n))
	}
	return all
}

// Warnings say what cannot be judged, as in Policy.
func (p *AuthorizationPolicy) Warnings() []string {
	out, _, _ := p.judged() // that it is an error is said elsewhere
	return out.Warnings
}

// Check returns every field that means nothing. One that another version or a proxy of
// layer 7 understands is none.
func (p *AuthorizationPolicy) Check() error {
	_, j, err := p.judged()
	return errors.Join(append(j.malformed, err)...)
}

// Judge takes what a strict decoder said of p. Fields of rules that it did not know have
// these rules narrowed, as what cannot be judged does; whatever else it said is returned.
func (p *AuthorizationPolicy) Judge(err error) (unjudged error) {
	p.Unknown, unjudged = unknownFields(err, unknownInRule)
	return unjudged
}

// unknownInRule is what the decoder of k8s.io/apimachinery says.
var unknownInRule = regexp.MustCompile(`^unknown field "((spec\.rules\[[0-9]{1,9}\])\..+)"$`)

// unknownFields returns the fields that a strict decoder did not know, by the path of their
// rule, if it said nothing else; or err. inRule finds the field, and the rule in it.
func unknownFields(err error, inRule *regexp.Regexp) (map[string][]string, error) {
	var strict interface{ Errors() []error }
	if !errors.As(err, &strict) {
		return nil, err
	}
	unknown := map[string][]string{}
	for _, e := range strict.Errors() {
		m := inRule.FindStringSubmatch(e.Error())
		if m == nil {
			return nil, err
		}
		unknown[m[2]] = append(unknown[m[2]], m[1])
	}
	return unknown, nil
}

func (p *AuthorizationPolicy) judged() (out policy.AuthorizationPolicy, j judge, err error) {
	var errs []error
	action, ok := policy.ParseAction(p.Spec.Action)
	if !ok {
		errs = append(errs, problem(BadField, "spec.action", "%q: not ALLOW, DENY, AUDIT or CUSTOM", p.Spec.Action))
	}
	refs := p.Spec.TargetRef != nil || len(p.Spec.TargetRefs) > 0
	if refs && p.Spec.Selector != nil {
		errs = append(errs, problem(BadField, "spec.selector", "not together with targetRefs"))
	}
	errs = append(errs, checkSelector(p.Spec.Selector))
	j = judge{namespace: p.Namespace, allows: action == policy.Allow, unknown: p.Unknown}
	if text, ok := p.Annotations[DryRun]; ok {
		if _, err := strconv.ParseBool(text); err != nil {
			j.wrong(DryRunValue, "metadata.annotations["+DryRun+"]", "%.80q: not true or false, and not a dry run", text)
		}
	}
	out = policy.AuthorizationPolicy{Object: object(&p.ObjectMeta, p.Spec.Selector), TargetRefs: refs, DryRun: p.isDryRun(), Action: action}
	switch {
	case refs:
		j.warn(TargetRefs, "spec.targetRefs", "for waypoints and Services: not enforced at layer 4")
	case action == policy.Custom || action == policy.Audit:
		j.warn(NoEffect, "spec.action", "%s: has no effect at layer 4", action)
	}
	if !refs {
		out.Rules = j.rules(p.Spec.Rules)
	}
	out.Warnings = j.told()
	return out, j, errors.Join(errs...)
}
