// SPDX-License-Identifier: Apache-2.0

package source

import (
	"iter"
	"maps"
)

// names are those of the objects that a Builder has, by kind, but for pods: there are
// many, and pods.byName has them.
type names map[Kind]map[Name]struct{}

func (n names) add(kind Kind, name Name) {
	if kind == KindPod {
		return
	}
	if n[kind] == nil {
		n[kind] = map[Name]struct{}{}
	}
	n[kind][name] = struct{}{}
}

// Len returns how many objects of a kind there are: those that were Set, or
// Remembered, and not Deleted. A pod that is not understood is not there.
func (b *Builder) Len(kind Kind) int {
	if kind == KindPod {
		return len(b.pods.workloads)
	}
	return len(b.names[kind])
}

// Names returns the names of the objects that Len counts. The Builder must not
// change meanwhile.
func (b *Builder) Names(kind Kind) iter.Seq[Name] {
	if kind != KindPod {
		return maps.Keys(b.names[kind])
	}
	return func(yield func(Name) bool) {
		for _, w := range b.pods.workloads {
			if !yield(Name{w.Namespace, w.Name}) {
				return
			}
		}
	}
}
