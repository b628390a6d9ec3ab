// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/elliptic"
	"crypto/x509"
	"strings"
	"testing"
)

// It is an attack only if the chain is looked at, for the identity that it claims, and
// crypto/x509 tries as often as it ever does.
func TestStrangersHaveCryptoX509TryToTheLast(t *testing.T) {
	cert, err := strangers(elliptic.P521(), chainLength)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	others := x509.NewCertPool()
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
		others.AddCert(c)
	}
	if uris := chain[0].URIs; len(uris) != 1 || uris[0].Scheme != "spiffe" || chain[0].IsCA {
		t.Errorf("it claims to be %v, and an authority: %v", uris, chain[0].IsCA)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: others})
	if err == nil || !strings.Contains(err.Error(), "signature check attempts limit") {
		t.Errorf("refused by %v", err)
	}
}
