// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

type (
	beginnings[T any] = nest[beginning, string, T]
	endings[T any]    = nest[ending, string, T]
	blocks[T any]     = nest[block, netip.Addr, T]
)

// words are the Patterns of one field; nil has none.
type words struct {
	exact    set[string]
	prefixes *beginnings[struct{}]
	suffixes *endings[struct{}]
	any      bool
}

func newWords(patterns []Pattern) *words {
	if len(patterns) == 0 {
		return nil
	}
	w := &words{exact: set[string]{}}
	prefixes, suffixes := map[beginning]struct{}{}, map[ending]struct{}{}
	for _, p := range patterns {
		switch kind, value := p.parse(); kind {
		case present:
			w.any = true
		case suffix:
			suffixes[ending(value)] = struct{}{}
		case prefix:
			prefixes[beginning(value)] = struct{}{}
		default:
			w.exact[value] = struct{}{}
		}
	}
	w.prefixes, w.suffixes = newNest(prefixes), newNest(suffixes)
	return w
}

// has reports whether one of the patterns matches s.
func (w *words) has(s string) bool {
	return w != nil && s != "" && (w.any || w.exact.has(s) || w.prefixes.has(s) || w.suffixes.has(s))
}

// exactly reports whether s itself is one of the patterns.
func (w *words) exactly(s string) bool { return w != nil && w.exact.has(s) }

// within reports whether a pattern matches s, which begins with root, and nothing that does
// not.
func (w *words) within(root, s string) bool {
	if w == nil {
		return false
	}
	longest := w.prefixes.innermost(s)
	return w.exact.has(s) || longest >= 0 && len(w.prefixes.extents[longest]) >= len(root)
}

// ranges are the CIDRs of one field; nil has none.
type ranges struct{ *blocks[struct{}] }

func newRanges(prefixes []netip.Prefix) *ranges {
	if len(prefixes) == 0 {
		return nil
	}
	all := map[block]struct{}{}
	for _, p := range prefixes {
		if p.IsValid() {
			all[block(p.Masked())] = struct{}{}
		}
	}
	return &ranges{newNest(all)}
}

// has reports whether addr is in one of them; the zero Addr is in none.
func (r *ranges) has(addr netip.Addr) bool { return r != nil && r.blocks.has(addr) }
