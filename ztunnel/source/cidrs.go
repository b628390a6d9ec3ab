// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"slices"
	"strings"
)

// cidrs are the addresses of pods and services, as Nodes and ServiceCIDRs say.
// They only grow.
type cidrs map[netip.Prefix]bool

func (c cidrs) add(prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		c[p.Masked()] = true
	}
}

// addTexts leaves out what is empty or no CIDR.
func (c cidrs) addTexts(texts ...string) { c.add(parsePrefixes(texts)...) }

// parsePrefixes leaves out what is no CIDR. The API server lets spaces around one pass.
func parsePrefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// merged returns as few prefixes as say the same, sorted: the blocks of a
// thousand nodes are mostly one.
func (c cidrs) merged() []netip.Prefix {
	var out []netip.Prefix
	for p := range c {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	merged := out[:0]
	for _, p := range out {
		// A prefix sorts before those which it holds.
		if n := len(merged); n > 0 && merged[n-1].Overlaps(p) {
			continue
		}
		merged = append(merged, p)
		for n := len(merged); n > 1; n-- {
			both, ok := joined(merged[n-2], merged[n-1])
			if !ok {
				break
			}
			merged = append(merged[:n-2], both)
		}
	}
	return merged
}

// joined returns the prefix of which a and b are the halves.
func joined(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() != b.Bits() || a.Bits() == 0 {
		return netip.Prefix{}, false
	}
	both := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	return both, a != b && both == netip.PrefixFrom(b.Addr(), b.Bits()-1).Masked()
}
