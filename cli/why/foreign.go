// SPDX-License-Identifier: Apache-2.0

package why

import (
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// A workload of another trust domain is proved by the tunnel that the source's node tries. What
// its own mesh does with a connection nobody here knows.

func (k *walk) elsewhere(what string) Step {
	return unknown("%s is known to the mesh of %v, which was not asked", what, k.peer.ID.TrustDomain())
}

// whoNames is what to change if a workload of another trust domain is not reached. A peer that
// is denied although the node's list names it is denied by the CA.
func (k *walk) whoNames(t *fleet.Outcome) string {
	if t.Word == wordDenied && !strings.Contains(t.Error, "-foreign-workloads") {
		return "the deny set of the CA (culvert denied)"
	}
	return "-federation of the CA, or the file of -foreign-workloads of " + k.src.view.Name
}

// foreignTunnel is of a tunnel that was tried.
func (k *walk) foreignTunnel() Step {
	at, n := k.peer.HBONE(k.target.Addr()), k.src.view
	switch t := k.tried.Tunnel; {
	case t.OK:
		return ok("%s has proved a tunnel to %v, in %s", n.Name, at, t.Took).by(k.World, n)
	case t.Shown != nil && *t.Shown:
		return ok("%v answers %s, and shows a certificate", at, n.Name).by(k.World, n) // whose, is the next question
	case t.Word == wordTLS, t.Word == wordDenied:
		return fault(k.whoNames(t), "%s makes no tunnel to %v: %s", n.Name, at, t.Error).by(k.World, n)
	case t.Word == wordIdentity, t.Word == wordExpired, t.Word == wordLimit: // of the source's node
		return unknown("%s did not get to ask %v: %s", n.Name, at, t.Error).by(k.World, n)
	default:
		return fault("what drops TCP port 15008 on the way to the mesh of "+k.peer.ID.TrustDomain().Name(), "%s reaches nobody at %v: %s", n.Name, at, t.Error).by(k.World, n)
	}
}

// foreignCertificate is whether the peer proved to be who is expected.
func (k *walk) foreignCertificate() Step {
	n := k.src.view
	if k.try(); k.tried == nil {
		return k.elsewhere("its certificate")
	}
	if t := k.tried.Tunnel; !t.OK {
		return fault(k.whoNames(t), "%s wants %v by the bundle of its trust domain: %s", n.Name, k.peer.ID, t.Error).by(k.World, n)
	}
	return ok("%s has verified that it is %v's", n.Name, k.peer.ID).by(k.World, n)
}
