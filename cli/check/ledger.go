// SPDX-License-Identifier: Apache-2.0

package check

import (
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// anchorOld is from which age on a ledger's anchor proves little: what came since could be
// cut off without a trace. It is renewed each minute.
const anchorOld = 15 * time.Minute

// anchorWaits is the state of an anchor while the replica has not looked at it since its start.
const anchorWaits = "waiting"

var ledgerRules = []rule{
	{"ledger-written", CategoryLedger, "every replica of the CA writes its ledger",
		"Its log says why not: a full disk, or one that hangs. docs/identity.md#a-disk-that-is-full", func(w *World) answer {
			return ofLedgers(w, func(a *answer, ca fleet.CA, l fleet.Ledger) {
				if l.Failing {
					a.fail("%s cannot write its ledger", ca.Name)
				}
			})
		}},
	{"ledger-anchored", CategoryLedger, "every ledger has come as far as its checkpoint outside of its disk says",
		"culvert audit verify --anchors says what is lost; docs/identity.md#checkpoints-outside-of-the-disk says how it is taken note of.", func(w *World) answer {
			return ofLedgers(w, func(a *answer, ca fleet.CA, l fleet.Ledger) {
				if l.Anchor == nil {
					if w.Cluster != nil {
						a.warn("%s has no checkpoint outside of its disk: an older state of it would look whole", ca.Name)
					}
					return
				}
				for _, lost := range l.Anchor.Lost {
					a.fail("%s: %s", ca.Name, lost)
				}
				switch age := time.Duration(l.Anchor.AgeSeconds * float64(time.Second)); {
				case age > anchorOld:
					a.warn("%s: its checkpoint outside of its disk is %s old%s", ca.Name, long(age), because(l.Anchor.Problem))
				case l.Anchor.State == anchorWaits:
					a.warn("%s: it is not yet compared with its checkpoint outside of its disk%s", ca.Name, because(l.Anchor.Problem))
				}
			})
		}},
}

// ofLedgers asks each replica that keeps one.
func ofLedgers(w *World, ask func(*answer, fleet.CA, fleet.Ledger)) (a answer) {
	shown, kept := false, false
	for _, ca := range w.CAs {
		if ca.State == nil {
			continue
		}
		shown = true
		if ca.State.Ledger != nil {
			kept = true
			ask(&a, ca, *ca.State.Ledger)
		}
	}
	switch {
	case !shown:
		return skipped("no replica shows its state")
	case !kept:
		return skipped("no replica keeps a ledger")
	}
	return a
}
