// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import "net/netip"

// A peer has a key in common with whatever it admits, if it is a block or asks for values of
// labels. Which of several requirements gives the keys can be chosen.

// keyKind is what a key is of.
type keyKind uint8

const (
	ofBlock keyKind = iota
	ofNamespace
	ofLabel // of a pod
	ofSpace // likewise of its namespace
)

// key is one value that peers name.
type key struct {
	kind       keyKind
	key, value string // of a label; a namespace has a value only
	block      netip.Prefix
}

// names returns the keys of each part of p that names some; namespace is the policy's.
func (p *Peer) names(namespace string) (all [][]key) {
	switch {
	case p == nil, p.Block == nil && p.Pods == nil && p.Namespaces == nil:
		return nil
	case p.Block != nil:
		return [][]key{{{kind: ofBlock, block: p.Block.CIDR.Masked()}}}
	}
	all = p.Pods.names(ofLabel)
	if p.Namespaces == nil {
		return append(all, []key{{kind: ofNamespace, value: namespace}})
	}
	return append(all, p.Namespaces.names(ofSpace)...)
}

func (s *Selector) names(kind keyKind) (all [][]key) {
	if s == nil {
		return nil
	}
	for _, r := range *s {
		if r.Operator != In || len(r.Values) == 0 {
			continue
		}
		var keys []key
		for _, value := range r.Values {
			k := key{kind: kind, key: r.Key, value: value}
			if kind == ofSpace && r.Key == NameLabel {
				k = key{kind: ofNamespace, value: value}
			}
			keys = append(keys, k)
		}
		all = append(all, keys)
	}
	return all
}

// rarest returns the part whose keys the fewest peers name; nil: there is none.
func rarest(parts [][]key, often map[key]int) (chosen []key) {
	least := 0
	for _, keys := range parts {
		most := 0
		for _, k := range keys {
			most = max(most, often[k])
		}
		if chosen == nil || most < least {
			chosen, least = keys, most
		}
	}
	return chosen
}
