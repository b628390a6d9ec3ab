// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// certificate judges by which certificate one end proved itself: the other's node says its
// serial number, its own node has it, and the other has a root for it.
func (t *trial) certificate(name string) why.Step {
	own, node := t.side(name)
	other, pod := &t.far, t.Source
	if own == &t.far {
		other, pod = &t.near, t.Peer
	}
	switch {
	case pod == nil:
		return step(name, why.Fault, nil, "%v is no pod of the mesh: it proved nothing", t.Target)
	case !pod.Meshed:
		return step(name, why.Fault, own.node, "%v is not in the mesh: it proved nothing", pod)
	case own.node == nil || other.node == nil:
		return step(name, why.Unknown, nil, "a node does not answer")
	case own.open.Problem != "" || other.open.Problem != "":
		return step(name, why.Unknown, nil, "a node did not answer while the connection was open")
	}
	serials := t.serials(name)
	if len(serials) == 0 {
		return step(name, why.Unknown, other.node, "%s does not say by which certificate %v proved itself", other.node.Name, pod)
	}
	held, leaf := heldBy(&own.open, pod.ID.String()), (*x509.Certificate)(nil)
	if held != nil {
		leaf = held.Leaf()
	}
	if leaf == nil {
		return step(name, why.Unknown, own.node, "%s shows no certificate of %v", node, pod.ID)
	}
	serial := leaf.SerialNumber.Text(16)
	for _, proved := range serials {
		if proved != serial {
			return step(name, why.Unknown, other.node, "%v proved itself by serial number %s, and %s holds %s now: if it has renewed meanwhile, ask again", pod, proved, node, serial)
		}
	}
	if wrong := t.wrong(pod, held, other); wrong != "" {
		return step(name, why.Fault, own.node, "serial number %s: %s", serial, wrong)
	}
	return step(name, why.OK, other.node, "%v, serial number %s, valid until %s", pod.ID, serial, leaf.NotAfter.UTC().Format("2006-01-02T15:04:05Z"))
}

// wrong is what is not as it should be with a certificate; empty: nothing.
func (t *trial) wrong(pod *workload.Workload, held *fleet.Held, other *end) string {
	leaf := held.Leaf()
	id, err := identity.FromCertificate(leaf)
	switch {
	case err != nil:
		return err.Error()
	case id != pod.ID:
		return fmt.Sprintf("it names %v, not %v", id, pod.ID)
	case t.now.After(held.UsedUntil()):
		return "it has expired"
	}
	roots := x509.NewCertPool()
	for _, h := range other.open.Dump.Certificates {
		for _, root := range h.Roots {
			roots.AddCert(root)
		}
	}
	above := x509.NewCertPool()
	for _, cert := range held.Chain[1:] {
		above.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Sprintf("%s has no root for it: %v", other.node.Name, err)
	}
	return ""
}

// serials are the numbers by which an end proved itself, as the other's node has them.
func (t *trial) serials(name string) (all []string) {
	add := func(serial, identity string, pod *workload.Workload) {
		if identity == pod.ID.String() && serial != "" && !slices.Contains(all, serial) {
			all = append(all, serial)
		}
	}
	if t.path() == pathLocal {
		return t.besides(name)
	}
	if name == StepDestCert {
		if c := t.outbound(); c != nil && c.Tunnel != nil {
			add(c.Tunnel.PeerSerial, c.DstIdentity, t.Peer)
		}
		return all
	}
	for _, c := range t.inbound() {
		if c.Tunnel != nil {
			add(c.Tunnel.PeerSerial, c.SrcIdentity, t.Source)
		}
	}
	return all
}

// besides are those of the tunnels beside connections of two pods of one node.
func (t *trial) besides(name string) (all []string) {
	pod, peer, direction := t.Source, t.Peer, "outbound"
	at := func(a netip.AddrPort) bool { return a.Addr() == t.Target.Addr() }
	if name == StepSourceCert {
		pod, peer, direction = t.Peer, t.Source, "inbound"
		at = func(a netip.AddrPort) bool { return a.Addr() == t.From }
	}
	for _, tunnel := range t.near.open.Dump.Pods[pod.UID].Tunnels {
		if tunnel.Direction == direction && tunnel.Peer == peer.ID.String() && at(tunnel.Address) && !slices.Contains(all, tunnel.PeerSerial) {
			all = append(all, tunnel.PeerSerial)
		}
	}
	return all
}

func heldBy(n *fleet.Node, id string) *fleet.Held {
	for i := range n.Dump.Certificates {
		if n.Dump.Certificates[i].Identity == id {
			return &n.Dump.Certificates[i]
		}
	}
	return nil
}
