// SPDX-License-Identifier: Apache-2.0

package check

import (
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// late is after how many of its own intervals a bundle is old: one attempt may fail.
const late = 3

var federationRules = []rule{
	{"federation-known", CategoryBundle, "the bundles of all federated trust domains are known",
		"culvert bundle federations shows each, and why it did not come.", func(w *World) (a answer) {
			return ofFederations(w, func(ca fleet.CA, f fleet.Federation) {
				if f.Roots == 0 {
					a.fail("%s has no bundle of %s: its workloads are refused%s", ca.Name, f.TrustDomain, because(f.Problem))
				}
			}, &a, true)
		}},
	{"federation-current", CategoryBundle, "the bundles of federated trust domains are fetched in time",
		"Look at the other domain's endpoint, and at the way there: a root that it drops or adds is not known meanwhile.", func(w *World) (a answer) {
			return ofFederations(w, func(ca fleet.CA, f fleet.Federation) {
				age, every := time.Duration(f.AgeSeconds)*time.Second, time.Duration(f.RefreshSeconds)*time.Second
				switch {
				case f.Roots == 0: // said by federation-known
				case every > 0 && age > late*every:
					a.fail("%s fetched that of %s %s ago, and should every %s%s", ca.Name, f.TrustDomain, long(age), long(every), because(f.Problem))
				case f.Problem != "":
					a.warn("%s: the last attempt to fetch that of %s failed: %s", ca.Name, f.TrustDomain, f.Problem)
				case f.Dropped > 0:
					a.warn("%s: the bundleFile of %s has %d roots that the bundle has dropped: write it anew", ca.Name, f.TrustDomain, f.Dropped)
				}
			}, &a, false)
		}},
	{"foreign-known", CategoryBundle, "nodes have the bundles of the trust domains whose workloads they name",
		"Let -federation of the CA name the domain, and see bundle of the node's /config_dump; or take it out of the file of -foreign-workloads.", ofNodes(foreignKnown)},
}

// foreignKnown asks each node that names workloads of other trust domains whether it can prove
// them. What it cannot prove is refused.
func foreignKnown(w *World) (a answer) {
	named := false
	for _, n := range w.answered() {
		if n.Dump.Foreign == nil {
			continue
		}
		if p := n.Dump.Foreign.Problem; p != "" {
			a.fail("node %s goes by what -foreign-workloads said before: %s", n.Name, p)
		}
		for _, d := range n.Dump.Foreign.Domains {
			named = true
			if !knowsBundle(n.Dump.Following, d.TrustDomain.Name()) {
				a.fail("node %s has no bundle of %v, of which it names %d workloads: they are not reached", n.Name, d.TrustDomain, len(d.Workloads))
			}
		}
	}
	if !named && a.state == "" {
		return skipped("no node names workloads of other trust domains")
	}
	return a
}

func knowsBundle(f *fleet.Following, td string) bool {
	if f == nil {
		return false
	}
	for _, d := range f.Federated {
		if d.TrustDomain == td && d.Roots > 0 {
			return true
		}
	}
	return false
}

// ofFederations asks each replica of each domain. That a replica does not understand what it
// was given to federate with is a failure of a question that asks for it.
func ofFederations(w *World, ask func(fleet.CA, fleet.Federation), a *answer, understood bool) answer {
	shown, federated := false, false
	for _, ca := range w.CAs {
		if ca.State == nil {
			continue
		}
		shown = true
		if ca.State.Federation == nil {
			continue
		}
		federated = true
		if p := ca.State.Federation.Problem; p != "" && understood {
			a.fail("%s goes by what was written before: %s", ca.Name, p)
		}
		for _, f := range ca.State.Federation.Domains {
			ask(ca, f)
		}
	}
	switch {
	case !shown:
		return skipped("no replica shows its state")
	case !federated:
		return skipped("the CA is federated with nobody")
	}
	return *a
}
