// SPDX-License-Identifier: Apache-2.0

package proxy

import "github.com/culvert-mesh/culvert/ztunnel/edges"

// plain says why a connection goes without mutual TLS. It is one byte, as there are many
// idle connections.
type plain uint8

const (
	notPlain    plain = iota // or it is refused before that is known
	notMeshed                // to a pod without the label
	nodePort                 // to a node's port for Services, of none that is known
	nodeItself               // to a node: the kubelet, the API server, what runs in the node's own network
	outsideMesh              // to an address outside the mesh
	permissive               // from a client without identity, where policy allows it
	ownPod                   // from a pod to itself, by a Service
)

var plainWords = [...]string{
	notPlain: "", notMeshed: "not_meshed", nodePort: "node_port", nodeItself: "node", outsideMesh: "outside_mesh",
	permissive: "permissive", ownPod: "own_pod",
}

func (p plain) String() string { return plainWords[p] }

// onEdge counts the connection in the table of who talks to whom.
func (c *connection) onEdge() {
	if c.pod.Edges == nil {
		return
	}
	e := edges.Edge{
		Direction: string(c.direction), Source: c.src.named(), Destination: c.dst.named(),
		Port: c.target().Port(), Secured: c.plain.String(),
	}
	if c.service != nil {
		e.ServiceNamespace, e.Service = c.service.Namespace, c.service.Name
	}
	if c.isSecured() {
		e.Secured = edges.MutualTLS
	}
	c.edge = c.pod.Edges.Open(&e, c.start)
}

// isSecured reports whether both ends have proved themselves to us.
func (c *connection) isSecured() bool {
	return c.mutualTLS() && c.src.identity != "" && c.dst.identity != ""
}

// named is the end by names that do not differ between the pods of a workload.
func (e *end) named() edges.End {
	w := e.known()
	return edges.End{Namespace: w.Namespace, Workload: w.Owner, Identity: e.identity}
}
