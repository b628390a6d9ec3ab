// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"encoding/hex"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// Report is what a replica of the CA does, and knows of nodes.
type Report struct {
	Beat uint64 `json:"beat"` // another in each: a report that stays the same is of a replica that is gone
	// Step is that of the plan whose state this replica has seen, with its files stored. What it
	// reports was so afterwards; 0: it has not seen any.
	Step    uint64  `json:"step,omitempty"`
	Set     string  `json:"set"`               // of the roots that it gives; identity.BundleHash in hexadecimal
	Issuer  string  `json:"issuer"`            // SHA-256 of the certificate that signs
	Trouble string  `json:"trouble,omitempty"` // why it does not take what is stored
	Away    string  `json:"away,omitempty"`    // why it cannot sign now: the signer of its issuer's key is away
	Longest Seconds `json:"longestSeconds"`    // no certificate that it gives, or a process before it gave, lives longer
	// Processes says that it gives certificates to processes outside Kubernetes, which hear of
	// roots when they renew.
	Processes bool            `json:"processes,omitempty"`
	Placed    bool            `json:"placed"` // it knows which nodes have pods
	Nodes     map[string]Node `json:"nodes"`
}

// Node is what a replica knows of a node.
type Node struct {
	Pods      bool      `json:"pods,omitempty"`      // of the mesh
	Connected bool      `json:"connected,omitempty"` // it follows the bundle by a stream to this replica
	Set       string    `json:"set,omitempty"`       // that it goes by, as it said; none: it did not, or of an older bundle
	Leaf      time.Time `json:"leaf,omitzero"`       // when the last certificate that this replica gave it ends
	Given     time.Time `json:"given,omitzero"`      // when that was
	// Rests is how many certificates and tunnels of the node nothing but a root vouches for,
	// by the SHA-256 of the root's key; nil: it does not say.
	Rests map[string]int `json:"rests,omitempty"`
	// Certificates are those among them. A tunnel may rest on a root since its other end is cut
	// off; certificates do not, once the node has renewed.
	Certificates map[string]int `json:"certificates,omitempty"`
	Quiet        Seconds        `json:"quietSeconds,omitempty"` // since it said something to this replica
}

// setOf names the roots in files.
func setOf(files ca.Files) string {
	sum := identity.BundleHash(files.Roots())
	return hex.EncodeToString(sum[:])
}
