// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// margin is how much longer than its certificates say anything is waited for: clocks differ.
const margin = time.Minute

// Who answers moves away from a root whose key is in other hands: it renews within half a
// minute, and a tunnel has a younger one beside it in less than its tick, unless its peer was
// away at all of the three tries that it makes by then: after these they are rare.
const (
	answersIn   = 15 * time.Second // a node that says what rests on roots says so every 5 s
	tunnelsMove = 10 * time.Second // after the last of both ends has renewed
	moveWithin  = time.Minute      // in all, after what is waited for those that do not answer
)

// View is what is known of the mesh at one time.
type View struct {
	Now      time.Time
	Skew     time.Duration // how far clocks of the mesh may be off
	Replicas []Replica
}

// Replica is one of the CA, as it reports.
type Replica struct {
	Name  string
	Fresh bool // it reported a moment ago
	Report
}

// Wait is what keeps a plan in its state.
type Wait struct {
	Kind string `json:"kind"` // replica, node, time, operator, signer
	Name string `json:"name,omitempty"`
	Why  string `json:"why"`
}

// Kinds of a Wait.
const (
	forReplica  = "replica"
	forNode     = "node"
	forTime     = "time"
	forOperator = "operator"
	forSigner   = "signer" // of the next issuer's key
)

// Kinds are all of them.
var Kinds = []string{forReplica, forNode, forTime, forOperator, forSigner}

func (w Wait) String() string {
	if w.Name == "" {
		return w.Why
	}
	return w.Kind + " " + w.Name + ": " + w.Why
}

// replicas are those that do not do what is wanted, yet.
func (v View) replicas(step uint64, wrong func(Replica) string) (waits []Wait) {
	if len(v.Replicas) == 0 {
		return []Wait{{forReplica, "", "no replica has reported yet"}}
	}
	for _, r := range v.Replicas {
		why := "it does not report: is it cut off?"
		if r.Fresh {
			if why = "it has not seen the state yet"; r.Step == step {
				why = wrong(r)
			}
		}
		if why != "" {
			waits = append(waits, Wait{forReplica, r.Name, why})
		}
	}
	return waits
}

// gives is why a replica does not give the set to nodes.
func gives(set string) func(Replica) string {
	return func(r Replica) string {
		switch {
		case r.Set != set:
			return "it gives nodes another set of roots" + r.because()
		case !r.Placed:
			return "it does not know yet which nodes have pods"
		}
		return ""
	}
}

// signsBy is why a replica does not sign by the issuer.
func signsBy(issuer string) func(Replica) string {
	return func(r Replica) string {
		if r.Issuer != issuer {
			return "it signs by another issuer" + r.because()
		}
		return ""
	}
}

// signs is why a replica signs nothing now.
func signs(r Replica) string {
	if r.Away == "" {
		return ""
	}
	return "it cannot sign: " + r.Away
}

// nobodySigns reports that no replica can sign by the issuer: no node could move to it.
func (v View) nobodySigns(issuer string) bool {
	by := first(signsBy(issuer), signs)
	return !slices.ContainsFunc(v.Replicas, func(r Replica) bool { return r.Fresh && by(r) == "" })
}

// because is why a replica does not do what is stored.
func (r Replica) because() string {
	if r.Trouble == "" {
		return ""
	}
	return ": it does not take what is stored: " + r.Trouble
}

// first is the first of some reasons.
func first(all ...func(Replica) string) func(Replica) string {
	return func(r Replica) string {
		for _, wrong := range all {
			if why := wrong(r); why != "" {
				return why
			}
		}
		return ""
	}
}

// known are the nodes that verify, or may: they have pods, follow a bundle, or have a
// certificate that has not ended. Each comes with what every replica says of it.
func (v View) known() map[string][]told {
	all := map[string][]told{}
	for _, r := range v.Replicas {
		for name, n := range r.Nodes {
			all[name] = append(all[name], told{n, r.Fresh})
		}
	}
	maps.DeleteFunc(all, func(_ string, by []told) bool {
		return !slices.ContainsFunc(by, func(t told) bool {
			return t.fresh && (t.Pods || t.Connected) || v.Now.Before(t.Leaf.Add(v.Skew))
		})
	})
	return all
}

// told is what one replica says of a node.
type told struct {
	Node
	fresh bool
}

// acked are the nodes that do not go by the set. A node that said so once does so for good:
// it never takes an older bundle. everywhere is since when no replica gives another set.
func (v View) acked(set string, everywhere time.Time) (waits []Wait) {
	known := v.known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		by := known[name]
		has := slices.ContainsFunc(by, func(t told) bool { return t.Set == set })
		other := slices.ContainsFunc(by, func(t told) bool { return t.fresh && t.Connected && t.Set != set })
		connected := slices.ContainsFunc(by, func(t told) bool { return t.fresh && t.Connected })
		switch {
		case has && !other, !connected && v.renewedAll(by, everywhere):
		case connected:
			waits = append(waits, Wait{forNode, name, "it has not said that it goes by the roots of now"})
		default:
			waits = append(waits, Wait{forNode, name, "it has not said that it goes by the roots of now, and has no stream to the CA"})
		}
	}
	return waits
}

// renewedAll reports whether a node that never says what it goes by, as Istio's ztunnel, has
// got all its certificates anew since a time, and with each the roots of then.
func (v View) renewedAll(by []told, since time.Time) bool {
	said := slices.ContainsFunc(by, func(t told) bool { return t.Set != "" })
	given := slices.ContainsFunc(by, func(t told) bool { return !since.IsZero() && t.Given.After(since) })
	return !said && given && v.ended(since)
}

// ended reports whether all certificates that were given before a time have ended.
func (v View) ended(since time.Time) bool { return !since.IsZero() && !v.Now.Before(v.end(since)) }

// end is when they have.
func (v View) end(since time.Time) time.Time {
	longest := time.Duration(0)
	for _, r := range v.Replicas {
		longest = max(longest, time.Duration(r.Longest))
	}
	return since.Add(longest + v.Skew + margin)
}

// processes is why processes outside Kubernetes may not have heard of the roots of a time.
func (v View) processes(since time.Time) []Wait {
	if !slices.ContainsFunc(v.Replicas, func(r Replica) bool { return r.Processes }) || v.ended(since) {
		return nil
	}
	return []Wait{{forTime, "", fmt.Sprintf("processes outside Kubernetes hear of roots when they renew: until %s", v.end(since).UTC().Format(time.RFC3339))}}
}

// rests are the nodes that have something which nothing but the kit's root vouches for. Those
// that do not say are among them until all has ended by our clock, which may have jumped.
func (v View) rests(on Kit, set string, ended bool) (waits []Wait) {
	known := v.known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if why, said := resting(known[name], on, set); why != "" && (said || !ended) {
			waits = append(waits, Wait{forNode, name, why})
		}
	}
	return waits
}

// answers reports whether a node is not cut off from the CA, as far as a replica knows.
func (t told) answers() bool {
	return t.fresh && t.Connected && time.Duration(t.Quiet) < answersIn
}

// renewing are the replicas and nodes that answer, and may have certificates yet which nothing
// but the kit's root vouches for.
func (v View) renewing(step uint64, on Kit, set string) (waits []Wait) {
	for _, r := range v.Replicas {
		if r.Fresh && r.Step != step {
			waits = append(waits, Wait{forReplica, r.Name, "it has not seen the state yet"})
		}
	}
	return slices.Concat(waits, v.answering(func(t told) string {
		resting := t.Certificates
		if resting == nil { // a replica of an earlier version does not tell them from tunnels
			resting = t.Rests
		}
		switch n := resting[on.key()]; {
		case n > 0:
			return fmt.Sprintf("%d certificates rest on the former root", n)
		case t.Set != set || t.Rests == nil:
			return "it has not said what rests on the former root"
		}
		return ""
	}))
}

// carried are the nodes that answer, and have tunnels that rest on the kit's root.
func (v View) carried(on Kit) []Wait {
	return v.answering(func(t told) string {
		if n := t.Rests[on.key()]; n > 0 {
			return fmt.Sprintf("%d tunnels rest on the former root", n)
		}
		return ""
	})
}

// answering asks of each node that answers why it is waited for.
func (v View) answering(why func(told) string) (waits []Wait) {
	known := v.known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		for _, t := range known[name] {
			if reason := why(t); t.answers() && reason != "" {
				waits = append(waits, Wait{forNode, name, reason})
				break
			}
		}
	}
	return waits
}

// resting is why a node is waited for, and whether it says so itself.
func resting(by []told, on Kit, set string) (why string, said bool) {
	connected, silent := false, false
	for _, t := range by {
		if !t.fresh || !t.Connected {
			continue
		}
		connected = true
		if n := t.Rests[on.key()]; n > 0 {
			return fmt.Sprintf("%d certificates and tunnels rest on the former root", n), true
		}
		silent = silent || t.Set != set || t.Rests == nil
	}
	switch {
	case !connected:
		return "it has no stream to the CA", false
	case silent:
		return "it does not say what rests on the former root", false
	}
	return "", false
}
