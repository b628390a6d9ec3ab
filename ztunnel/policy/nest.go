// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// extent is values that stand together in an order: the words with one beginning, those
// with one ending when they are read backwards, the addresses of a CIDR. Of two extents
// one lies in the other, or they are apart.
type extent[E, V any] interface {
	comparable
	compare(E) int // by where they begin, a wider one first
	after(V) bool  // it begins after a value
	holds(V) bool
	around(E) bool // the other one lies in it
}

// nest is extents, each with a T. Those that hold a value are the innermost one, which a
// binary search finds, and all that lie around it.
type nest[E extent[E, V], V, T any] struct {
	extents []E
	each    []T
	outer   []int // of each the next that lies around it; -1: none
}

// newNest returns nil if there is nothing.
func newNest[E extent[E, V], V, T any](all map[E]T) *nest[E, V, T] {
	if len(all) == 0 {
		return nil
	}
	n := &nest[E, V, T]{extents: slices.SortedFunc(maps.Keys(all), E.compare)}
	outer := -1
	for i, e := range n.extents {
		for outer >= 0 && !n.extents[outer].around(e) {
			outer = n.outer[outer]
		}
		n.each, n.outer = append(n.each, all[e]), append(n.outer, outer)
		outer = i
	}
	return n
}

// innermost returns the place of the narrowest extent that holds v, or -1. The last that
// does not begin after v is that, or lies in it.
func (n *nest[E, V, T]) innermost(v V) int {
	if n == nil {
		return -1
	}
	i := sort.Search(len(n.extents), func(i int) bool { return n.extents[i].after(v) }) - 1
	for i >= 0 && !n.extents[i].holds(v) {
		i = n.outer[i]
	}
	return i
}

func (n *nest[E, V, T]) has(v V) bool { return n.innermost(v) >= 0 }

// beginning is the words that begin with it.
type beginning string

func (b beginning) compare(o beginning) int { return cmp.Compare(b, o) }
func (b beginning) after(s string) bool     { return string(b) > s }
func (b beginning) holds(s string) bool     { return strings.HasPrefix(s, string(b)) }
func (b beginning) around(o beginning) bool { return b.holds(string(o)) }

// ending is the words that end with it.
type ending string

func (e ending) compare(o ending) int { return backwards(string(e), string(o)) }
func (e ending) after(s string) bool  { return backwards(string(e), s) > 0 }
func (e ending) holds(s string) bool  { return strings.HasSuffix(s, string(e)) }
func (e ending) around(o ending) bool { return e.holds(string(o)) }

// backwards compares two words from their ends.
func backwards(a, b string) int {
	for i := 1; i <= min(len(a), len(b)); i++ {
		if c := cmp.Compare(a[len(a)-i], b[len(b)-i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// block is the addresses of a CIDR, which is masked.
type block netip.Prefix

func (b block) compare(o block) int {
	return cmp.Or(b.first().Compare(o.first()), cmp.Compare(b.bits(), o.bits()))
}
func (b block) after(a netip.Addr) bool { return b.first().Compare(a) > 0 }
func (b block) holds(a netip.Addr) bool { return netip.Prefix(b).Contains(a) }
func (b block) around(o block) bool     { return b.holds(o.first()) }
func (b block) first() netip.Addr       { return netip.Prefix(b).Addr() }
func (b block) bits() int               { return netip.Prefix(b).Bits() }

// CIDRs finds which of many CIDRs hold an address. The zero one has none.
type CIDRs[T any] struct{ nest *blocks[T] }

// NewCIDRs arranges CIDRs, each with its T. They are masked; those that are not valid hold
// nothing.
func NewCIDRs[T any](all map[netip.Prefix]T) CIDRs[T] {
	each := make(map[block]T, len(all))
	for p, t := range all {
		if p.IsValid() {
			each[block(p)] = t
		}
	}
	return CIDRs[T]{newNest(each)}
}

// Holding yields the T of each CIDR that holds addr, the narrowest first. It allocates
// nothing.
func (c CIDRs[T]) Holding(addr netip.Addr) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := c.nest.innermost(addr); i >= 0 && yield(c.nest.each[i]); i = c.nest.outer[i] {
		}
	}
}
