// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// PeerAuthentication is security.istio.io's object of that kind, v1 or v1beta1.
// The structs are our own because Istio's would bring its whole API with them,
// and because a field that is not listed here must be an error.
type PeerAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              PeerAuthenticationSpec `json:"spec"`
	Status            map[string]any         `json:"status,omitempty"`
}

// PeerAuthenticationSpec is what a PeerAuthentication asks for.
type PeerAuthenticationSpec struct {
	Selector      *Selector       `json:"selector,omitempty"`
	MTLS          *MTLS           `json:"mtls,omitempty"`
	PortLevelMTLS map[string]MTLS `json:"portLevelMtls,omitempty"`
}

// Selector is Istio's WorkloadSelector.
type Selector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// MTLS holds a mode.
type MTLS struct {
	Mode string `json:"mode,omitempty"`
}

// AuthorizationPolicy is security.istio.io's object of that kind.
type AuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              AuthorizationPolicySpec `json:"spec"`
	Status            map[string]any          `json:"status,omitempty"`
}

// AuthorizationPolicySpec is what an AuthorizationPolicy asks for.
type AuthorizationPolicySpec struct {
	Selector   *Selector   `json:"selector,omitempty"`
	TargetRef  *TargetRef  `json:"targetRef,omitempty"`
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	Action     string      `json:"action,omitempty"`
	Provider   *Provider   `json:"provider,omitempty"`
	Rules      []Rule      `json:"rules,omitempty"`
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

// Rule matches if one of From, one of To and all of When do.
type Rule struct {
	From []From      `json:"from,omitempty"`
	To   []To        `json:"to,omitempty"`
	When []Condition `json:"when,omitempty"`
}

// From holds a source.
type From struct {
	Source *Peer `json:"source,omitempty"`
}

// Peer is where a connection comes from.
type Peer struct {
	Principals           []string `json:"principals,omitempty"`
	NotPrincipals        []string `json:"notPrincipals,omitempty"`
	RequestPrincipals    []string `json:"requestPrincipals,omitempty"`
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitempty"`
	Namespaces           []string `json:"namespaces,omitempty"`
	NotNamespaces        []string `json:"notNamespaces,omitempty"`
	ServiceAccounts      []string `json:"serviceAccounts,omitempty"`
	NotServiceAccounts   []string `json:"notServiceAccounts,omitempty"`
	TrustDomains         []string `json:"trustDomains,omitempty"`
	NotTrustDomains      []string `json:"notTrustDomains,omitempty"`
	IPBlocks             []string `json:"ipBlocks,omitempty"`
	NotIPBlocks          []string `json:"notIpBlocks,omitempty"`
	RemoteIPBlocks       []string `json:"remoteIpBlocks,omitempty"`
	NotRemoteIPBlocks    []string `json:"notRemoteIpBlocks,omitempty"`
}

// To holds an operation.
type To struct {
	Operation *Operation `json:"operation,omitempty"`
}

// Operation is what a connection wants.
type Operation struct {
	Hosts      []string `json:"hosts,omitempty"`
	NotHosts   []string `json:"notHosts,omitempty"`
	Ports      []string `json:"ports,omitempty"`
	NotPorts   []string `json:"notPorts,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	NotMethods []string `json:"notMethods,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	NotPaths   []string `json:"notPaths,omitempty"`
}

// Condition is one attribute's values.
type Condition struct {
	Key       string   `json:"key"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"notValues,omitempty"`
}

// Policy returns what the object means, and every field that means nothing.
func (p *PeerAuthentication) Policy() (policy.PeerAuthentication, error) {
	out := policy.PeerAuthentication{Object: object(&p.ObjectMeta, p.Spec.Selector)}
	var errs []error
	if p.Spec.MTLS != nil {
		mode, err := parseMode("spec.mtls.mode", p.Spec.MTLS.Mode)
		errs = append(errs, err)
		out.Mode = mode
	}
	if p.Spec.PortLevelMTLS != nil {
		if len(out.Selector) == 0 {
			errs = append(errs, errors.New("spec.portLevelMtls: needs spec.selector.matchLabels"))
		}
		if len(p.Spec.PortLevelMTLS) == 0 {
			errs = append(errs, errors.New("spec.portLevelMtls: no port"))
		}
		out.Ports = make(map[uint16]policy.Mode, len(p.Spec.PortLevelMTLS))
	}
	for _, key := range sortedKeys(p.Spec.PortLevelMTLS) {
		path := fmt.Sprintf("spec.portLevelMtls[%s]", key)
		port, err := strconv.ParseUint(key, 10, 16)
		if err != nil || port == 0 || strconv.FormatUint(port, 10) != key {
			errs = append(errs, fmt.Errorf("%s: not a port of the pod from 1 to 65535", path))
			continue
		}
		mode, err := parseMode(path+".mode", p.Spec.PortLevelMTLS[key].Mode)
		errs = append(errs, err)
		out.Ports[uint16(port)] = mode
	}
	errs = append(errs, checkSelector(p.Spec.Selector))
	return out, errors.Join(errs...)
}

// Policy returns what the object means to this version.
func (p *AuthorizationPolicy) Policy() (policy.AuthorizationPolicy, error) {
	var errs []error
	switch p.Spec.Action {
	case "", "ALLOW", "DENY", "AUDIT", "CUSTOM":
	default:
		errs = append(errs, fmt.Errorf("spec.action: %q: not ALLOW, DENY, AUDIT or CUSTOM", p.Spec.Action))
	}
	refs := p.Spec.TargetRef != nil || len(p.Spec.TargetRefs) > 0
	if refs && p.Spec.Selector != nil {
		errs = append(errs, errors.New("spec.selector: not together with targetRefs"))
	}
	errs = append(errs, checkSelector(p.Spec.Selector))
	return policy.AuthorizationPolicy{Object: object(&p.ObjectMeta, p.Spec.Selector), TargetRefs: refs}, errors.Join(errs...)
}

func object(meta *metav1.ObjectMeta, s *Selector) policy.Object {
	out := policy.Object{Namespace: meta.Namespace, Name: meta.Name, Created: meta.CreationTimestamp.Time}
	if s != nil {
		out.Selector = s.MatchLabels
	}
	return out
}

func parseMode(path, s string) (policy.Mode, error) {
	mode, ok := policy.ParseMode(s)
	if !ok {
		return mode, fmt.Errorf("%s: %q: not UNSET, DISABLE, PERMISSIVE or STRICT", path, s)
	}
	return mode, nil
}

// checkSelector refuses what a user could take for a pattern: labels are
// compared as they are, so that a "*" would select nothing, silently.
func checkSelector(s *Selector) error {
	if s == nil {
		return nil
	}
	for _, key := range sortedKeys(s.MatchLabels) {
		if key == "" || s.MatchLabels[key] == "*" {
			return fmt.Errorf("spec.selector.matchLabels[%s]: %q: labels are compared exactly", key, s.MatchLabels[key])
		}
	}
	return nil
}

// DeepCopyObject makes it a runtime.Object.
func (p *PeerAuthentication) DeepCopyObject() runtime.Object { return deepCopy(p) }

// DeepCopyObject makes it a runtime.Object.
func (p *AuthorizationPolicy) DeepCopyObject() runtime.Object { return deepCopy(p) }

// deepCopy goes through JSON: every field of these types has one.
func deepCopy[T any](in *T) *T {
	out := new(T)
	data, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		panic(fmt.Sprintf("copy a %T: %v", in, err))
	}
	return out
}
