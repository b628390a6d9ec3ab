// SPDX-License-Identifier: Apache-2.0

package policy

// A rule has a key in common with whatever it matches, if there is a clause of which each
// match names keys. Which clause and which field of each match that is can be chosen.

// keys returns all that r names in clauses of which each match names something.
func (r *rule) keys() set[key] {
	all := set[key]{}
	for _, clause := range r.clauses {
		for i := range clause {
			for _, named := range clause[i].fields() {
				for _, k := range named {
					all[k] = struct{}{}
				}
			}
		}
	}
	return all
}

// rarest returns keys of which whatever r matches has one: those that the fewest rules
// name. None: r matches what has no key.
func (r *rule) rarest(often map[key]int) (named set[key]) {
	least := 0
	for _, clause := range r.clauses {
		if keys, most := rarestOf(clause, often); keys != nil && (named == nil || most < least) {
			named, least = keys, most
		}
	}
	return named
}

// rarestOf chooses a field of each match, and returns how many rules name the keys that
// most of them name.
func rarestOf(clause []match, often map[key]int) (named set[key], most int) {
	named = set[key]{}
	for i := range clause {
		var chosen []key
		least := 0
		for _, keys := range clause[i].fields() {
			if n := mostOf(keys, often); chosen == nil || n < least {
				chosen, least = keys, n
			}
		}
		if chosen == nil {
			return nil, 0
		}
		for _, k := range chosen {
			named[k] = struct{}{}
		}
		most = max(most, least)
	}
	return named, most
}

func mostOf(keys []key, often map[key]int) (most int) {
	for _, k := range keys {
		most = max(most, often[k])
	}
	return most
}

// fields returns the keys of each field of m that names some.
func (m *match) fields() (all [][]key) {
	add := func(keys []key) {
		if len(keys) > 0 {
			all = append(all, keys)
		}
	}
	add(m.principals.keys(ofPrincipal))
	var accounts []key
	for a := range m.accounts {
		accounts = append(accounts, key{field: ofAccount, account: a})
	}
	add(accounts)
	add(m.namespaces.keys(ofNamespace))
	add(m.trustDomains.keys(ofTrustDomain))
	add(m.sources.keys(ofSource))
	add(m.dsts.keys(ofDestination))
	return all
}

// keys returns nil if w has none, or matches every word.
func (w *words) keys(f field) (keys []key) {
	if w == nil || w.any {
		return nil
	}
	for word := range w.exact {
		keys = append(keys, key{field: f, word: word})
	}
	if w.prefixes != nil {
		for _, p := range w.prefixes.extents {
			keys = append(keys, key{field: f, kind: prefix, word: string(p)})
		}
	}
	if w.suffixes != nil {
		for _, s := range w.suffixes.extents {
			keys = append(keys, key{field: f, kind: suffix, word: string(s)})
		}
	}
	return keys
}

func (r *ranges) keys(f field) (keys []key) {
	if r == nil || r.blocks == nil {
		return nil
	}
	for _, b := range r.extents {
		keys = append(keys, key{field: f, block: b})
	}
	return keys
}

// portsNamed returns the ports of which one is that of whatever r matches; nil: r
// matches others, too.
func (r *rule) portsNamed() set[uint16] {
	for _, clause := range r.clauses {
		named := set[uint16]{}
		for i := range clause {
			if clause[i].ports == nil {
				named = nil
				break
			}
			for port := range clause[i].ports {
				named[port] = struct{}{}
			}
		}
		if named != nil {
			return named
		}
	}
	return nil
}
