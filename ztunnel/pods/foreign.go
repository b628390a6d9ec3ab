// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// toPeer is what proves the two ends of a tunnel from a pod of id to key. A peer of another
// trust domain must be expected at its address: when it is not any more, Reprove ends the
// tunnel, as it does when the bundle of that trust domain goes.
func (p *Pods) toPeer(ctx context.Context, id spiffeid.ID, key hbone.Key) (hbone.Credential, error) {
	if key.Dst.MemberOf(id.TrustDomain()) {
		return credential(p.Certs.ClientPair(ctx, id, key.Dst))
	}
	if err := p.expected(key); err != nil {
		return hbone.Credential{}, fmt.Errorf("%w: %w", hbone.ErrDenied, err)
	}
	cred, err := credential(p.Certs.ClientPair(ctx, id, key.Dst))
	if errors.Is(err, certs.ErrNoBundle) {
		return hbone.Credential{}, fmt.Errorf("%w: %w", hbone.ErrTLS, err)
	}
	if err != nil {
		return hbone.Credential{}, err
	}
	denied := cred.Denied
	cred.Denied = func(state tls.ConnectionState, remote netip.AddrPort) error {
		if err := denied(state, remote); err != nil {
			return err
		}
		return p.expected(key)
	}
	return cred, nil
}

// expected returns an error if no list names the peer of a tunnel to another trust domain.
func (p *Pods) expected(key hbone.Key) error {
	if p.Registry.ExpectsForeign(key.Dst, key.Addr.Addr()) {
		return nil
	}
	return &unexpected{key}
}

// unexpected denies a tunnel to another trust domain.
type unexpected struct{ key hbone.Key }

func (u *unexpected) Error() string {
	return fmt.Sprintf("-foreign-workloads does not name %v at %v", u.key.Dst, u.key.Addr.Addr())
}

// Denied tells it from a handshake that failed.
func (u *unexpected) Denied() bool { return true }
