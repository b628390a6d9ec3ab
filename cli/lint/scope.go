// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// peer says whom a PeerAuthentication is for, and what it does to them.
func (s *scene) peer(p *peer) {
	root := p.policy.Namespace == s.RootNamespace
	switch {
	case root && len(p.policy.Selector) > 0:
		s.say(p.Object, selectorIgnored, "spec.selector", "means nothing in the root namespace: the object has no effect")
		return
	case p.by != "":
		s.say(p.Object, shadowed, "", "%s counts in its place", p.by)
	case root:
		s.say(p.Object, meshWide, "metadata.namespace", "%s is the root namespace: it is for all pods of the mesh", p.policy.Namespace)
	}
	s.namespace(p.Object, p.policy.Namespace, "metadata.namespace")
	pods := s.selected(p.policy.Object, root)
	s.reach(p.Object, p.policy.Object, pods, root)
	s.modePorts(p, pods)
	if p.policy.Mode == policy.Strict && p.by == "" {
		s.strict(p, pods)
	}
}

// reach says if a policy is for nobody, or for pods outside the mesh alone.
func (s *scene) reach(o file.Object, p policy.Object, pods []*workload.Packed, everywhere bool) {
	outside := func(pod *workload.Packed) bool { return !pod.Meshed && !pod.Undecided }
	switch {
	case len(s.pods) == 0:
	case len(pods) == 0 && len(p.Selector) > 0 && everywhere:
		s.say(o, selectsNobody, "spec.selector.matchLabels", "none of %d pods has these labels", len(s.pods))
	case len(pods) == 0 && len(p.Selector) > 0:
		s.say(o, selectsNobody, "spec.selector.matchLabels", "no pod of namespace %s has these labels", p.Namespace)
	case len(pods) > 0 && !slices.ContainsFunc(pods, func(pod *workload.Packed) bool { return !outside(pod) }):
		s.say(o, notInMesh, "", "all its pods are outside the mesh, where nobody enforces it: %s", some(owners(pods)))
	}
}

// strict says who will be refused if they connect to pods that take no plaintext.
func (s *scene) strict(p *peer, pods []*workload.Packed) {
	closed := map[string]bool{} // namespaces of pods in the mesh
	for _, pod := range pods {
		closed[pod.Namespace] = closed[pod.Namespace] || pod.Meshed
	}
	var outside []*workload.Packed
	for namespace := range closed {
		for _, pod := range s.beside[namespace] {
			if closed[namespace] && !pod.Meshed && !pod.Undecided {
				outside = append(outside, pod)
			}
		}
	}
	if len(outside) > 0 {
		s.say(p.Object, strictShutsOut, "spec.mtls.mode", "pods beside it are outside the mesh and will be refused: %s", some(owners(outside)))
	}
}

// shadows finds PeerAuthentications in whose place an older one counts for every pod.
func (s *scene) shadows() {
	byAge := make([]*peer, len(s.peers))
	for i := range s.peers {
		byAge[i] = &s.peers[i]
	}
	slices.SortStableFunc(byAge, func(a, b *peer) int {
		x, y := a.policy, b.policy
		return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	for i, p := range byAge {
		for _, older := range byAge[:i] {
			if p.by == "" && older.policy.Namespace == p.policy.Namespace && covers(older, p) {
				p.by = named(older.Object)
			}
		}
	}
}

// covers reports whether a is of the scope of b, and selects all that b selects.
func covers(a, b *peer) bool {
	if (len(a.policy.Selector) == 0) != (len(b.policy.Selector) == 0) {
		return false
	}
	for key, value := range a.policy.Selector {
		if got, has := b.policy.Selector[key]; !has || got != value {
			return false
		}
	}
	return true
}

// duplicates finds AuthorizationPolicies that say what another one says.
func (s *scene) duplicates() {
	for i, p := range s.authz {
		for _, first := range s.authz[:i] {
			same := p.policy.Namespace == first.policy.Namespace && p.policy.Name != first.policy.Name && p.policy.DryRun == first.policy.DryRun
			if same && reflect.DeepEqual(p.object.Spec, first.object.Spec) {
				s.say(p.Object, duplicate, "spec", "is that of %s", named(first.Object))
				break
			}
		}
	}
}
