// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
)

// presented begins a TLS handshake as a client without a certificate, and returns what
// the server presented. A server that wants a certificate of its clients ends it then.
func presented(ctx context.Context, raw net.Conn, name string) (chain []*x509.Certificate, err error) {
	conn := tls.Client(raw, &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // it is looked at, and nothing is sent
		VerifyConnection: func(state tls.ConnectionState) error {
			chain = state.PeerCertificates
			return nil
		},
	})
	err = conn.HandshakeContext(ctx)
	switch {
	case len(chain) > 0:
		return chain, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no certificate within %v", askFor)
	}
	return nil, fmt.Errorf("TLS handshake: %v", err)
}
