// SPDX-License-Identifier: Apache-2.0

package source

import (
	"slices"
	"strings"
)

// named is whether something that holds is about the peer's trust domain alone.
func (a asks) named(r *Rule, namespace string) bool {
	principal := func(v string) bool {
		return v == a.principal || strings.HasPrefix(v, a.trustDomain+"/") && strings.HasSuffix(v, "*") && wildcard(v, a.principal) == yes
	}
	for _, f := range r.From {
		if slices.ContainsFunc(a.source(f.Source, namespace), func(t truth) bool { return t != yes }) {
			continue
		}
		if slices.Contains(f.Source.TrustDomains, a.trustDomain) || slices.ContainsFunc(f.Source.Principals, principal) {
			return true
		}
	}
	return slices.ContainsFunc(r.When, func(c *Condition) bool {
		return c.Key == "source.principal" && slices.ContainsFunc(c.Values, principal)
	})
}

// excepted is of whom namespaces and accounts with "not" are asked.
func (a asks) excepted() asks {
	if a.excepting {
		a.namespace, a.account = "", ""
	}
	return a
}

// read is a peer as a policy reads it: of a foreign one, ALLOW knows no account, and DENY none
// where it excepts.
func (a asks) read(foreign, allow bool) asks {
	if a.excepting = foreign; foreign && allow {
		a.namespace, a.account = "", ""
	}
	return a
}
