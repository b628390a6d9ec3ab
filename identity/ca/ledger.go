// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
)

// CertifyLedger makes a certificate by which a key signs how far a ledger has come, and
// returns it with those above it, without the root. It binds hashes to times, and so has
// the usage of time stamping alone, and no name of a workload or server: it proves nobody
// to anybody.
func (c *CA) CertifyLedger(key crypto.PublicKey, commonName string) ([]*x509.Certificate, error) {
	a := c.inForce.Load()
	if a == nil {
		return nil, fmt.Errorf("certify the ledger: %w", ErrNotOpen)
	}
	leaf, err := a.leaf(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	}, key, MaxTTL)
	if err != nil {
		return nil, fmt.Errorf("certify the ledger: %w", err)
	}
	return a.above(leaf), nil
}
