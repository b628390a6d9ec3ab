// SPDX-License-Identifier: Apache-2.0

package why

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Words of the access record that a tried tunnel ends with.
const (
	wordTLS      = "tls"
	wordIdentity = "identity"
	wordExpired  = "expired"
	wordDenied   = "denied"
	wordLimit    = "limit"
)

var errNotTried = errors.New("nothing was tried")

// probe has a node try something, if there is a way.
func (k *walk) probe(n *fleet.Node, q fleet.Question) (fleet.Proof, error) {
	if k.Probe == nil || n.File {
		return fleet.Proof{}, errNotTried
	}
	return k.Probe(k.ctx, n, q)
}

// itself reports whether the connection stays inside its pod.
func (k *walk) itself() bool { return k.peer != nil && k.src.pod != nil && k.peer.UID == k.src.pod.UID }

// untunnelled is why the connection needs no tunnel; empty: it needs one.
func (k *walk) untunnelled() string {
	if k.itself() {
		return "a pod that connects to itself does not leave itself"
	}
	return k.plain
}

// try has the source's node prove a tunnel, once.
func (k *walk) try() {
	if k.tried != nil || k.reach != nil {
		return
	}
	if !k.src.own {
		k.reach = errNotTried
		return
	}
	q := fleet.Question{Pod: k.src.pod.UID, Peer: k.peer.HBONE(k.target.Addr()), Identity: k.peer.ID.String()}
	p, err := k.probe(k.src.view, q)
	if err == nil && p.Tunnel == nil {
		err = errors.New("its ztunnel is older, and tries nothing")
	}
	if k.reach = err; err == nil {
		k.tried = &p
	}
}

func (k *walk) tunnel() Step {
	if why := k.untunnelled(); why != "" {
		return notNeeded("there is no tunnel: %s", why)
	}
	at, n := k.peer.HBONE(k.target.Addr()), k.src.view
	k.try()
	if k.tried == nil {
		return k.openTunnel().because(notTried(n, k.reach))
	}
	if k.peer.IsForeign() {
		return k.foreignTunnel()
	}
	switch t := k.tried.Tunnel; {
	case t.OK:
		return ok("%s has proved a tunnel to %v, in %s", n.Name, at, t.Took).by(k.World, n)
	case t.Shown != nil && *t.Shown:
		return ok("%v answers %s, and shows a certificate", at, n.Name).by(k.World, n) // whose, is the next question
	case t.Word == wordIdentity, t.Word == wordExpired, t.Word == wordLimit: // of the source's node
		return unknown("%s did not get to ask %v: %s", n.Name, at, t.Error).by(k.World, n)
	case t.Shown == nil && (t.Word == wordTLS || t.Word == wordDenied):
		return unknown("the older ztunnel on %s does not say whether %v showed a certificate: %s", n.Name, at, t.Error).by(k.World, n)
	case t.Word == wordTLS && k.dstNode != nil && k.certificate(k.dstNode, k.peer).State == Fault:
		return ok("%v takes the connection of %s, and has no certificate to show", at, n.Name).by(k.World, n) // why, is the next question
	case t.Word == wordTLS:
		return fault(fmt.Sprintf("ztunnel on %s, or whatever else takes TCP port %d of Pod %v or cuts it off on its way", k.peer.Node, at.Port(), k.peer),
			"%v takes the connection of %s, and shows no certificate: %s", at, n.Name, t.Error).by(k.World, n)
	case t.Refused:
		return fault("ztunnel on "+k.peer.Node+", or the enrolment of Pod "+k.peer.String(), "nobody takes tunnels at %v: %s", at, t.Error).by(k.World, n)
	default:
		return fault(k.whoDrops(), "%s reaches nobody at %v: %s", n.Name, at, t.Error).by(k.World, n)
	}
}

// openTunnel goes by a tunnel that is open.
func (k *walk) openTunnel() Step {
	at, n := k.peer.HBONE(k.target.Addr()), k.src.view
	if !k.src.own {
		return unknown("%s did not say which tunnels it has to %v", k.src.pod.Node, at)
	}
	state, _ := podState(n, k.src.pod.UID)
	for _, t := range state.Tunnels {
		if t.Direction == "outbound" && t.Address == at && t.Peer == k.peer.ID.String() {
			return ok("a tunnel to %v is open", at).by(k.World, n)
		}
	}
	return unknown("no tunnel to %v is open, and none was tried", at).by(k.World, n)
}

// notTried says why n tried nothing.
func notTried(n *fleet.Node, why error) string {
	switch {
	case n.File:
		return "a file tells what was open; whether more works only a node can try"
	case why == nil || errors.Is(why, errNotTried):
		return "nothing was tried"
	}
	return "it was not tried: " + why.Error()
}

// whoDrops is what may drop tunnels on their way. What a node knows of NetworkPolicies
// that block them comes first.
func (k *walk) whoDrops() string {
	var policies []string
	for n := range k.answered {
		if n.Dump.Network == nil {
			continue
		}
		for _, name := range n.Dump.Network.Blocking {
			namespace, _, _ := strings.Cut(strings.TrimPrefix(name, "NetworkPolicy "), "/")
			if (namespace == k.peer.Namespace || namespace == k.src.pod.Namespace) && !slices.Contains(policies, name) {
				policies = append(policies, name)
			}
		}
	}
	if len(policies) > 0 {
		return "NetworkPolicy " + strings.Join(policies, ", ") + ": admit TCP port 15008 from the same peers"
	}
	return fmt.Sprintf("what drops TCP port 15008 from %s to %s: a NetworkPolicy of the pod network, a firewall", k.src.pod.Node, k.peer.Node)
}

func (k *walk) app() Step {
	if k.itself() || k.peer == nil || !k.peer.Meshed {
		return k.outsideApp()
	}
	if k.peer.IsForeign() {
		return k.elsewhere("whether the app listens")
	}
	pod, n := k.peer, k.dstNode
	if n == nil {
		return unknown("%s, where the app is, did not answer or was not asked", pod.Node)
	}
	p, err := k.probe(n, fleet.Question{Pod: pod.UID, App: k.target, Client: k.dst.from})
	if err == nil && p.App == nil {
		err = errors.New("its ztunnel is older, and tries nothing")
	}
	switch {
	case err != nil:
		return k.openToApp(n, pod).because(notTried(n, err))
	case p.App.OK:
		return ok("the app of %v accepts connections on port %d", pod, k.target.Port()).by(k.World, n)
	case p.App.Refused:
		return fault(fmt.Sprintf("Pod %v: its app does not listen on port %d", pod, k.target.Port()), "nobody listens at %v: %s", k.target, p.App.Error).
			because(declared(pod)).by(k.World, n)
	}
	return fault(fmt.Sprintf("Pod %v: its app does not accept on port %d", pod, k.target.Port()), "the app at %v does not answer: %s", k.target, p.App.Error).by(k.World, n)
}

// openToApp goes by a connection to the app that is open.
func (k *walk) openToApp(n *fleet.Node, pod *workload.Workload) Step {
	state, _ := podState(n, pod.UID)
	for _, c := range state.Connections.Inbound {
		if c.ActualDst == k.target.String() {
			return ok("a connection to %v is open", k.target).by(k.World, n)
		}
	}
	return unknown("whether the app listens at %v is not known", k.target).by(k.World, n)
}

// outsideApp is of an app that no node of the mesh is in front of.
func (k *walk) outsideApp() Step {
	if k.src.own {
		state, _ := podState(k.src.view, k.src.pod.UID)
		for _, c := range state.Connections.Outbound {
			if c.ActualDst == k.target.String() {
				return ok("a connection to %v is open", k.target).by(k.World, k.src.view)
			}
		}
	}
	return unknown("%v is not in the mesh: nobody says whether it accepts connections", k.target)
}

func declared(pod *workload.Workload) string {
	if len(pod.Declared) == 0 {
		return ""
	}
	return fmt.Sprintf("its containers declare %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(pod.Declared), " ", ", "), "[]"))
}
