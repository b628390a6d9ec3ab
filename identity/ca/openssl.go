// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
)

// checkAsOpenSSL refuses what crypto/x509 takes and OpenSSL does not: programs that
// are not in Go meet our certificates too, and so does whoever runs openssl verify.
//
// OpenSSL finds a certificate's issuer by name, and asks the authority key identifier
// for all that it says: X509_check_akid in crypto/x509/v3_purp.c. It takes one that
// bears its issuer's name, and whose identifier does not say otherwise, as self-signed.
func (a *authority) checkAsOpenSSL() error {
	for _, cert := range []struct {
		name         string
		cert, parent *x509.Certificate
	}{{RootFile, a.root, a.root}, {IssuerFile, a.issuer, a.root}} {
		if err := checkKeyID(cert.cert, cert.parent); err != nil {
			return fmt.Errorf("%s: %w", cert.name, err)
		}
	}
	same := bytes.Equal(a.issuer.RawSubject, a.root.RawSubject)
	if same && (len(a.issuer.AuthorityKeyId) == 0 || bytes.Equal(a.issuer.AuthorityKeyId, a.issuer.SubjectKeyId)) {
		return fmt.Errorf("%s: it bears the name of the root, %q, and no authority key identifier that says otherwise: OpenSSL takes it as self-signed (error 19)",
			IssuerFile, a.root.Subject)
	}
	return nil
}

// keyID is AuthorityKeyIdentifier of RFC 5280, 4.2.1.1.
type keyID struct {
	ID     []byte        `asn1:"optional,tag:0"`
	Issuer asn1.RawValue `asn1:"optional,tag:1"`
	Serial *big.Int      `asn1:"optional,tag:2"`
}

var oidKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

// checkKeyID compares a certificate's authority key identifier with its parent.
func checkKeyID(cert, parent *x509.Certificate) error {
	for _, extension := range cert.Extensions {
		if !extension.Id.Equal(oidKeyID) {
			continue
		}
		var id keyID
		if _, err := asn1.Unmarshal(extension.Value, &id); err != nil {
			return fmt.Errorf("its authority key identifier: %v", err)
		}
		if len(id.ID) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(id.ID, parent.SubjectKeyId) {
			return fmt.Errorf("its authority key identifier names another key than that of %s: OpenSSL does not find its issuer", RootFile)
		}
		if id.Serial != nil && id.Serial.Cmp(parent.SerialNumber) != 0 {
			return fmt.Errorf("its authority key identifier names another serial number than that of %s: OpenSSL does not find its issuer", RootFile)
		}
	}
	return nil
}
