// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"slices"
)

// DefaultRootNamespace is where mesh-wide policies stand unless said otherwise.
const DefaultRootNamespace = "istio-system"

// Build makes a snapshot of objects. An error names each object which cannot
// be understood; the snapshot is then not to be used.
func Build(objects Objects, o Options) (Snapshot, error) {
	b := NewBuilder(o)
	// Pods come after what they depend on, so that each is decided once.
	errs := slices.Concat(
		setAll(b, objects.Namespaces), setAll(b, objects.ServiceAccounts), setAll(b, objects.RuntimeClasses), setAll(b, objects.Nodes), setAll(b, objects.Pods),
		setAll(b, objects.Services), setAll(b, objects.EndpointSlices),
		setAll(b, objects.PeerAuthentications), setAll(b, objects.AuthorizationPolicies), setAll(b, objects.NetworkPolicies),
	)
	if len(errs) > 0 {
		return Snapshot{}, errors.Join(errs...)
	}
	return b.Snapshot(), nil
}

func setAll[T Object](b *Builder, objects []T) (errs []error) {
	for _, o := range objects {
		if err := b.Set(o); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", KindOf(o), nameOf(o), err))
		}
	}
	return errs
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}
