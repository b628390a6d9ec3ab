// SPDX-License-Identifier: Apache-2.0

package why

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// caSigns is ztunnel's word for a CA that signs for the node.
const caSigns = "signs"

func (k *walk) sourceCertificate() Step {
	if why := k.untunnelled(); why != "" {
		return notNeeded("no certificate is shown: %s", why)
	}
	if !k.src.own {
		return unknown("%s, which holds it, did not answer or was not asked", k.src.pod.Node)
	}
	s := k.certificate(k.src.view, k.src.pod)
	if s.State != OK {
		return s
	}
	if k.try(); k.tried != nil && !k.tried.Tunnel.OK && (k.tried.Tunnel.Word == wordIdentity || k.tried.Tunnel.Word == wordExpired) {
		return fault(k.certificateOf(k.src.view), "%s cannot show one: %s", k.src.view.Name, k.tried.Tunnel.Error).by(k.World, k.src.view)
	}
	return s
}

func (k *walk) destinationCertificate() Step {
	if why := k.untunnelled(); why != "" {
		return notNeeded("no certificate is shown: %s", why)
	}
	if k.peer.IsForeign() {
		return k.foreignCertificate()
	}
	if s := k.sameAccount(); s.State == Fault {
		return s
	}
	var s Step
	if k.dstNode == nil {
		s = unknown("%s, which holds it, did not answer or was not asked", k.peer.Node)
	} else if s = k.certificate(k.dstNode, k.peer); s.State == OK {
		s = k.believed(s)
	}
	if k.try(); s.State == Fault || k.tried == nil {
		return s
	}
	switch t := k.tried.Tunnel; {
	case t.OK:
		return ok("%s has verified that it is %v's", k.src.view.Name, k.peer.ID).because(s.Says).by(k.World, k.src.view)
	case t.Word == wordDenied:
		return fault("the deny set of the CA (culvert denied), or the roots that are published", "%s refuses the peer: %s", k.src.view.Name, t.Error).by(k.World, k.src.view)
	case t.Word != wordTLS:
		return s // it was not tried
	default:
		return fault(fmt.Sprintf("Pod %v: spec.serviceAccountName, or the roots of %s and %s (culvert bundle acks)", k.peer, k.src.view.Name, k.peer.Node),
			"%s and %v do not prove to each other who they are, and %v is wanted: %s", k.src.view.Name, k.target.Addr(), k.peer.ID, t.Error).by(k.World, k.src.view)
	}
}

// sameAccount compares whom the source's node expects with whom the pod's own node runs.
func (k *walk) sameAccount() Step {
	if k.dstNode == nil {
		return Step{}
	}
	for i := range k.dstNode.Dump.Workloads {
		there := &k.dstNode.Dump.Workloads[i]
		if there.UID == k.peer.UID && there.ID != k.peer.ID {
			return fault(fmt.Sprintf("Pod %v: spec.serviceAccountName, as %s reads it", k.peer, k.src.view.Name),
				"%s expects %v, and %s runs it as %v", k.src.view.Name, k.peer.ID, k.dstNode.Name, there.ID).by(k.World, k.dstNode)
		}
	}
	if state, has := podState(k.dstNode, k.peer.UID); has && state.Identity != "" && state.Identity != k.peer.ID.String() {
		return fault(fmt.Sprintf("Pod %v: spec.serviceAccountName, as %s reads it", k.peer, k.src.view.Name),
			"%s expects %v, and %s has enrolled it as %s", k.src.view.Name, k.peer.ID, k.dstNode.Name, state.Identity).by(k.World, k.dstNode)
	}
	return Step{}
}

// certificate is how it stands with the one that a pod's node holds for it.
func (k *walk) certificate(n *fleet.Node, pod *workload.Workload) Step {
	held := k.held(n, pod)
	state, _ := podState(n, pod.UID)
	word, problem := "", ""
	if c := state.Certificate; c != nil {
		word, problem = c.State, c.Error
	}
	if s := k.clock(n, held); s.State == Fault {
		return s
	}
	switch {
	case word == "missing", held == nil, held.Leaf() == nil:
		return fault(k.certificateOf(n), "%s holds no certificate of %v", n.Name, pod.ID).because(problem, k.standing(n)).because(k.authority(n)...).by(k.World, n)
	case word == "expired":
		return fault(k.certificateOf(n), "the certificate of %v on %s expired at %s", pod.ID, n.Name, stamp(held.Until())).because(problem, k.standing(n)).because(k.authority(n)...).by(k.World, n)
	}
	if undated(n) {
		return unknown("%v, until %s; it is not said when that was", pod.ID, stamp(held.Until())).because(older).by(k.World, n)
	}
	if left := held.UsedUntil().Sub(k.at(n)); left <= 0 {
		return fault(k.certificateOf(n), "the certificate of %v on %s expired at %s", pod.ID, n.Name, stamp(held.UsedUntil())).because(problem, k.standing(n)).because(k.authority(n)...).by(k.World, n)
	}
	s := ok("%v, until %s", pod.ID, stamp(held.Until())).because("serial "+held.Leaf().SerialNumber.Text(16), k.standing(n)).by(k.World, n)
	if word == "overdue" {
		s = s.because("its renewal is overdue: " + problem)
	}
	return s
}

func (k *walk) held(n *fleet.Node, pod *workload.Workload) *fleet.Held {
	i := slices.IndexFunc(n.Dump.Certificates, func(h fleet.Held) bool { return h.Identity == pod.ID.String() })
	if i < 0 {
		return nil
	}
	return &n.Dump.Certificates[i]
}

// standing is what the CA last said to a node, unless it signs.
func (k *walk) standing(n *fleet.Node) string {
	if ca := n.Dump.CA; ca.Reason != "" && ca.Reason != caSigns {
		return "the CA for " + n.Name + ": " + ca.Reason + ", " + ca.Problem
	}
	return ""
}

// authority is what each replica of the CA says of a node.
func (k *walk) authority(n *fleet.Node) (all []string) {
	if k.CAs == nil {
		return nil
	}
	for _, ca := range k.CAs(k.ctx) {
		who := "the CA " + ca.Name
		if ca.Problem != "" {
			all = append(all, who+" does not answer: "+ca.Problem)
			continue
		}
		if ca.State == nil {
			all = append(all, who+" answers, and does not say more: "+ca.StateProblem)
			continue
		}
		for _, r := range ca.State.Readiness {
			if !r.Ready {
				all = append(all, who+" is not ready: "+r.Name+": "+r.Problem)
			}
		}
		i := slices.IndexFunc(ca.State.Nodes, func(v fleet.Visit) bool { return v.Node == n.Name })
		if i < 0 {
			all = append(all, who+" has not heard of "+n.Name+" lately")
			continue
		}
		v := ca.State.Nodes[i]
		all = append(all, fmt.Sprintf("%s says that %s asked last at %s: %s", who, n.Name, stamp(v.LastRequest), v.LastResult))
	}
	return all
}

// certificateOf is what to change for a node to get certificates.
func (k *walk) certificateOf(n *fleet.Node) string {
	ca, address := n.Dump.CA, cmp.Or(n.Dump.Config.CAAddress, "the CA")
	switch ca.Reason {
	case caSigns, "":
		return "culvert-identity at " + address + ": its log says why it signs no certificate for this ServiceAccount on " + n.Name
	case "unreachable", "no_answer":
		return "culvert-identity at " + address + ": it does not answer " + n.Name
	}
	return "culvert-identity at " + address + ": it does not sign for " + n.Name + " (" + ca.Reason + ")"
}

// undated reports whether nobody knows of when a node's word is: nothing that ends is ok by it.
func undated(n *fleet.Node) bool { return n.File && n.Taken.IsZero() }

// older is why.
const older = "the file is of an older ztunnel, and has no time: that of a file is of its last copy"

// at is the time on a node's clock, of a node that is not undated.
func (k *walk) at(n *fleet.Node) time.Time {
	if n.File {
		return n.Taken
	}
	return k.Now.Add(n.Clock.Offset)
}

// clockOff is from when a clock that is off is told, beside certificates.
const clockOff = 30 * time.Second

// clock is a fault if a node's clock is off so far that its certificate does not hold by
// the clocks of others. If another node has the same time, this machine's may be the one
// that is off.
func (k *walk) clock(n *fleet.Node, held *fleet.Held) Step {
	off := n.Clock.Skewed()
	if n.File || off.Abs() < clockOff {
		return Step{}
	}
	for o := range k.answered {
		if o != n && (o.Clock.Offset-n.Clock.Offset).Abs() < clockOff {
			return Step{}
		}
	}
	skew, _ := time.ParseDuration(n.Dump.Config.ClockSkew) // an older ztunnel does not say it
	if holds(held, k.Now, skew) && holds(held, k.at(n), skew) {
		return Step{}
	}
	return fault("the clock of node "+n.Name+": set it", "the clock of %s is %v %s, and no certificate holds by it and by others",
		n.Name, off.Abs().Round(time.Second), ahead(off)).by(k.World, n)
}

// holds reports whether a certificate holds by a clock that may be off by skew.
func holds(held *fleet.Held, at time.Time, skew time.Duration) bool {
	return held != nil && held.Leaf() != nil && !at.Add(skew).Before(held.Leaf().NotBefore) && at.Add(-skew).Before(held.Until())
}

func ahead(off time.Duration) string {
	if off < 0 {
		return "behind"
	}
	return "ahead"
}

// believed is whether each end trusts what the other shows, by roots and clocks.
func (k *walk) believed(s Step) Step {
	if !k.src.own || k.src.pod.ID.TrustDomain() != k.peer.ID.TrustDomain() { // a dump has the roots of its own domain
		return s
	}
	mine, theirs := k.held(k.src.view, k.src.pod), k.held(k.dstNode, k.peer)
	if mine == nil || theirs == nil {
		return s
	}
	for _, way := range []struct {
		shown   *fleet.Held
		by      *fleet.Held
		who, to *fleet.Node
	}{{theirs, mine, k.dstNode, k.src.view}, {mine, theirs, k.src.view, k.dstNode}} {
		if len(way.by.Roots) == 0 || trusts(way.by.Roots, way.shown.Chain) {
			continue
		}
		return fault("the bundle of roots on "+way.to.Name+" (culvert bundle acks)", "no root that %s trusts vouches for the certificate on %s", way.to.Name, way.who.Name).by(k.World, way.to)
	}
	return s
}

// trusts reports whether a root vouches for a chain, whenever.
func trusts(roots, chain []*x509.Certificate) bool {
	if len(chain) == 0 {
		return false
	}
	top := chain[len(chain)-1]
	return slices.ContainsFunc(roots, func(root *x509.Certificate) bool {
		return top.Equal(root) || top.CheckSignatureFrom(root) == nil
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
