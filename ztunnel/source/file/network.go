// SPDX-License-Identifier: Apache-2.0

package file

import (
	"maps"
	"reflect"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// networkNarrows: pods are isolated as before or more, and no rule is new to them. The
// first policy of a namespace admits less than none did.
func (s *Source) networkNarrows(old, next *source.NetworkPolicy) bool {
	after, err := next.Policy()
	if err != nil {
		return false
	}
	if old == nil {
		return len(after.Ingress.Rules)+len(after.Egress.Rules) == 0 || !s.isolatesBeside(next.Namespace)
	}
	before, err := old.Policy()
	return err == nil && reflect.DeepEqual(before.Pods, after.Pods) &&
		sideNarrows(&before.Ingress, &after.Ingress) && sideNarrows(&before.Egress, &after.Egress)
}

func sideNarrows(before, after *networkpolicy.Side) bool {
	if before.Isolates && !after.Isolates {
		return false
	}
	return !slices.ContainsFunc(after.Rules, func(r networkpolicy.Rule) bool {
		return !slices.ContainsFunc(before.Rules, func(o networkpolicy.Rule) bool { return reflect.DeepEqual(r, o) })
	})
}

// isolatesBeside reports whether the namespace has a NetworkPolicy already: to the pods that
// it selects, the rules of one more let in more.
func (s *Source) isolatesBeside(namespace string) bool {
	for k := range s.force.entries {
		if k.kind == source.KindNetworkPolicy && k.name.Namespace == namespace {
			return true
		}
	}
	return false
}

// selectedAlike reports whether NetworkPolicies refuse no less with the next labels of a
// namespace: they select by them, and one says whether refusals are enforced.
func (s *Source) selectedAlike(old, next map[string]string, known bool) bool {
	was, _ := networkpolicy.ModeOf(old)
	is, _ := networkpolicy.ModeOf(next)
	if was == networkpolicy.Enforce && is != networkpolicy.Enforce {
		return false
	}
	selecting := func(labels map[string]string) map[string]string {
		labels = plain(labels)
		delete(labels, networkpolicy.ModeLabel)
		return labels
	}
	for k := range s.force.entries {
		if k.kind == source.KindNetworkPolicy {
			return known && maps.Equal(selecting(old), selecting(next))
		}
	}
	return true
}
