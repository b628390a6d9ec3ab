// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

var (
	clientID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	serverID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
	otherID  = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/other")
)

// authority vouches for both ends of a test's tunnels.
type authority struct{ root *certstest.Signer }

func newAuthority(testing.TB) *authority { return &authority{certstest.NewCA()} }

// credential proves id for ttl and accepts only want, or anyone if that is zero.
func (a *authority) credential(id, want spiffeid.ID, ttl time.Duration) Credential {
	leaf := a.root.Leaf(id, certstest.Lasting(ttl))
	return Credential{
		Config: certstest.Mutual(a.root, leaf, func(peer spiffeid.ID) error {
			if !want.IsZero() && peer != want {
				return fmt.Errorf("peer is %v, want %v", peer, want)
			}
			return nil
		}),
		Until: func(state tls.ConnectionState) time.Time {
			if peer := state.PeerCertificates[0].NotAfter; peer.Before(leaf.Cert.NotAfter) {
				return peer
			}
			return leaf.Cert.NotAfter
		},
	}
}
