// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// reachWithin is how long a pod is waited for: from most machines none is reached.
const reachWithin = 2 * time.Second

// Tunnel is where a pod of this node with that identity takes tunnels; false: none does.
func (d Dump) Tunnel(identity string) (address string, ok bool) {
	for _, w := range d.Workloads {
		if w.Node == d.Config.NodeName && w.ID.String() == identity && w.Meshed && w.Ready && len(w.Addrs) > 0 {
			return netip.AddrPortFrom(w.Addrs[0], workload.HBONEPort).String(), true
		}
	}
	return "", false
}

// Presented returns the certificate that an address presents in a handshake.
func Presented(ctx context.Context, address string) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	chain, err := presented(ctx, raw, "")
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}
