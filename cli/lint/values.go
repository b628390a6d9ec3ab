// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// values looks at what is written in a rule. What means nothing the source has said.
func (s *scene) values(a *authorization, path string, r *source.Rule, pods []*workload.Packed) {
	for i, f := range r.From {
		if f == nil || f.Source == nil {
			continue
		}
		path := fmt.Sprintf("%s.from[%d].source", path, i)
		s.each(a, path+".principals", f.Source.Principals, s.principal)
		s.each(a, path+".notPrincipals", f.Source.NotPrincipals, s.principal)
		s.each(a, path+".trustDomains", f.Source.TrustDomains, s.trustDomain)
		s.each(a, path+".namespaces", f.Source.Namespaces, s.anyNamespace)
		s.each(a, path+".notNamespaces", f.Source.NotNamespaces, s.anyNamespace)
		s.each(a, path+".serviceAccounts", f.Source.ServiceAccounts, s.ownAccount)
		s.each(a, path+".notServiceAccounts", f.Source.NotServiceAccounts, s.ownAccount)
		s.each(a, path+".ipBlocks", f.Source.IPBlocks, s.block)
		s.each(a, path+".notIpBlocks", f.Source.NotIPBlocks, s.block)
	}
	for i, t := range r.To {
		if t == nil || t.Operation == nil {
			continue
		}
		path := fmt.Sprintf("%s.to[%d].operation", path, i)
		s.ports(a.Object, path+".ports", t.Operation.Ports, pods)
		s.ports(a.Object, path+".notPorts", t.Operation.NotPorts, pods)
	}
	for i, c := range r.When {
		if c == nil {
			continue
		}
		path := fmt.Sprintf("%s.when[%d]", path, i)
		look := map[string]func(*authorization, string, string){
			"source.principal": s.principal, "source.namespace": s.anyNamespace, "source.ip": s.block, "destination.ip": s.block,
		}[c.Key]
		switch {
		case look != nil:
			s.each(a, path+".values", c.Values, look)
			s.each(a, path+".notValues", c.NotValues, look)
		case c.Key == "destination.port":
			s.ports(a.Object, path+".values", c.Values, pods)
			s.ports(a.Object, path+".notValues", c.NotValues, pods)
		}
	}
}

func (s *scene) each(a *authorization, path string, values []string, look func(a *authorization, path, value string)) {
	for i, v := range values {
		look(a, fmt.Sprintf("%s[%d]", path, i), v)
	}
}

// principal asks whether anybody of this mesh can have such an identity.
func (s *scene) principal(a *authorization, path, value string) {
	td, rest, whole := strings.Cut(value, "/")
	if star := strings.HasPrefix(td, "*"); star || td == "" || strings.HasPrefix(value, "spiffe:") {
		return
	}
	if !policy.Pattern(td).Matches(s.TrustDomain.Name()) {
		s.other(a, path, value, td)
		return
	}
	parts := strings.Split(rest, "/")
	if !whole || len(parts) != 4 || parts[0] != "ns" || parts[2] != "sa" || strings.Contains(value, "*") {
		return
	}
	s.serviceAccount(a, path, source.Name{Namespace: parts[1], Name: parts[3]})
}

func (s *scene) trustDomain(a *authorization, path, value string) {
	if !policy.Pattern(value).Matches(s.TrustDomain.Name()) {
		s.other(a, path, value, value)
	}
}

// other is of a value that names no trust domain of ours, but td: the name of one, or a pattern.
func (s *scene) other(a *authorization, path, value, td string) {
	if !slices.ContainsFunc(s.Federated, policy.Pattern(td).Matches) {
		s.say(a.Object, otherTrustDomain, path, "%.80q: the mesh is %s, and peers of others are refused unless the CA is federated with their domain", value, s.TrustDomain.Name())
	}
}

func (s *scene) ownAccount(a *authorization, path, value string) {
	namespace, name, found := strings.Cut(value, "/")
	if !found {
		namespace, name = a.policy.Namespace, value
	}
	s.serviceAccount(a, path, source.Name{Namespace: namespace, Name: name})
}

// serviceAccount asks whether there is one. Each namespace has one of the name default.
func (s *scene) serviceAccount(a *authorization, path string, name source.Name) {
	switch {
	case s.unknown(name.Namespace):
		s.namespace(a.Object, name.Namespace, path)
	case len(s.accounts) > 0 && !s.accounts[name] && name.Name != "default":
		s.say(a.Object, noSuchAccount, path, "there is no ServiceAccount %s", name)
	}
}

func (s *scene) unknown(namespace string) bool {
	return len(s.namespaces) > 0 && !s.namespaces[namespace]
}

// namespace asks whether there is one.
func (s *scene) namespace(o file.Object, namespace, path string) {
	if s.unknown(namespace) && namespace != s.RootNamespace {
		s.say(o, noSuchNamespace, path, "there is no namespace %.80s", namespace)
	}
}

// anyNamespace asks whether a pattern matches one.
func (s *scene) anyNamespace(a *authorization, path, value string) {
	if len(s.namespaces) == 0 || value == "" {
		return
	}
	for namespace := range s.namespaces {
		if policy.Pattern(value).Matches(namespace) {
			return
		}
	}
	s.say(a.Object, noSuchNamespace, path, "there is no namespace %.80s", value)
}

// block says what a CIDR means that has bits behind its length.
func (s *scene) block(a *authorization, path, value string) {
	if p, err := netip.ParsePrefix(value); err == nil && p.Masked() != p {
		s.say(a.Object, hostBits, path, "%s is all of %s", value, p.Masked())
	}
}

// ports asks of ports in a rule whether they are the pods' own.
func (s *scene) ports(o file.Object, path string, values []string, pods []*workload.Packed) {
	for i, text := range values {
		var port uint16
		if n, err := fmt.Sscan(text, &port); n == 1 && err == nil {
			s.port(o, fmt.Sprintf("%s[%d]", path, i), port, pods)
		}
	}
}

// modePorts asks so of the ports of a PeerAuthentication.
func (s *scene) modePorts(p *peer, pods []*workload.Packed) {
	for _, port := range slices.Sorted(maps.Keys(p.policy.Ports)) {
		s.port(p.Object, fmt.Sprintf("spec.portLevelMtls[%d]", port), port, pods)
	}
}

// port says if no pod declares a port. A Service of these pods may have it.
func (s *scene) port(o file.Object, path string, port uint16, pods []*workload.Packed) {
	for _, pod := range pods {
		if len(pod.Declared) == 0 || slices.Contains(pod.Declared, port) || slices.Contains(pod.ProbePorts, port) {
			return
		}
	}
	if len(pods) == 0 {
		return
	}
	for _, service := range s.services {
		for _, sp := range service.Spec.Ports {
			if sp.Port != int32(port) {
				continue
			}
			for _, pod := range pods {
				selects := len(service.Spec.Selector) > 0 && service.Namespace == pod.Namespace && policy.Selector(service.Spec.Selector).Matches(pod.Labels)
				if target, ok := source.TargetPort(pod, sp); selects && ok && target != port {
					s.say(o, servicePort, path, "%d is a port of Service %s/%s; that of its pods is %d", port, service.Namespace, service.Name, target)
					return
				}
			}
		}
	}
	s.say(o, portNotDeclared, path, "none of its pods declares port %d: %s", port, some(owners(pods)))
}
