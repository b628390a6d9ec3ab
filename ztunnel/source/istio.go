// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

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
			errs = append(errs, problem(PortsOfNobody, "spec.portLevelMtls", "needs spec.selector.matchLabels"))
		}
		if len(p.Spec.PortLevelMTLS) == 0 {
			errs = append(errs, problem(EmptyList, "spec.portLevelMtls", "no port"))
		}
		out.Ports = make(map[uint16]policy.Mode, len(p.Spec.PortLevelMTLS))
	}
	for _, key := range sortedKeys(p.Spec.PortLevelMTLS) {
		path := fmt.Sprintf("spec.portLevelMtls[%s]", key)
		port, err := strconv.ParseUint(key, 10, 16)
		if err != nil || port == 0 || strconv.FormatUint(port, 10) != key {
			errs = append(errs, problem(BadPort, path, "not a port of the pod from 1 to 65535"))
			continue
		}
		mode, err := parseMode(path+".mode", p.Spec.PortLevelMTLS[key].Mode)
		errs = append(errs, err)
		out.Ports[uint16(port)] = mode
	}
	errs = append(errs, checkSelector(p.Spec.Selector))
	return out, errors.Join(errs...)
}

// Problems are the fields that mean nothing.
func (p *PeerAuthentication) Problems() []*Problem {
	_, err := p.Policy()
	return problems(err)
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
		return mode, problem(BadField, path, "%q: not UNSET, DISABLE, PERMISSIVE or STRICT", s)
	}
	return mode, nil
}

func checkSelector(s *Selector) error {
	if s == nil {
		return nil
	}
	return checkLabels("spec.selector.matchLabels", s.MatchLabels)
}

// checkLabels refuses what no label is, as a pattern: labels are compared as they are, so
// that a "*" would select nothing, silently.
func checkLabels(path string, labels map[string]string) error {
	for _, key := range sortedKeys(labels) {
		value := labels[key]
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			return problem(BadField, fmt.Sprintf("%s[%.80s]", path, key), "%.80q: no label is so, and labels are compared exactly", value)
		}
	}
	return nil
}

// DeepCopyObject makes it a runtime.Object.
func (p *PeerAuthentication) DeepCopyObject() runtime.Object { return deepCopy(p) }

// DeepCopyObject makes it a runtime.Object.
func (p *AuthorizationPolicy) DeepCopyObject() runtime.Object {
	c := deepCopy(p)
	c.Unknown = p.Unknown // nobody writes to it
	return c
}

// deepCopy goes through JSON.
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
