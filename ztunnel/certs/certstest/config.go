// SPDX-License-Identifier: Apache-2.0

package certstest

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Mutual is a config for both ends of a tunnel: it presents own, and takes a peer
// whose certificate root signed and whose identity accept does not refuse.
func Mutual(root, own *Signer, accept func(peer spiffeid.ID) error) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{own.TLS()}, NextProtos: []string{"h2"},
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, SessionTicketsDisabled: true, // VerifyConnection verifies
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: root.Pool(), CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			})
			if err != nil {
				return err
			}
			peer, err := identity.FromCertificate(state.PeerCertificates[0])
			if err != nil {
				return err
			}
			return accept(peer)
		},
	}
}
