// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"encoding/asn1"
	"math/big"
)

// checkAsOpenSSL refuses what crypto/x509 takes and OpenSSL does not: programs that
// are not in Go meet our certificates too, and so does whoever runs openssl verify.
//
// OpenSSL finds a certificate's issuer by name, and asks the authority key identifier
// for all that it says: X509_check_akid in crypto/x509/v3_purp.c. It takes one that
// bears its issuer's name, and whose identifier does not say otherwise, as self-signed.
func (e *examination) checkAsOpenSSL(cert, parent certificate) {
	e.checkKeyID(cert, parent)
	same := bytes.Equal(cert.RawSubject, parent.RawSubject)
	if same && (len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, cert.SubjectKeyId)) {
		e.report(takenSelfSigned, cert.file,
			"%s bears the name of %s, which has signed it, %q, and no authority key identifier that says otherwise: OpenSSL takes it as self-signed (error 19)",
			cert, parent, parent.Subject)
	}
}

// keyID is AuthorityKeyIdentifier of RFC 5280, 4.2.1.1.
type keyID struct {
	ID     []byte        `asn1:"optional,tag:0"`
	Issuer asn1.RawValue `asn1:"optional,tag:1"`
	Serial *big.Int      `asn1:"optional,tag:2"`
}

var oidKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

// checkKeyID compares a certificate's authority key identifier with its parent.
func (e *examination) checkKeyID(cert, parent certificate) {
	for _, extension := range cert.Extensions {
		if !extension.Id.Equal(oidKeyID) {
			continue
		}
		var id keyID
		if _, err := asn1.Unmarshal(extension.Value, &id); err != nil {
			e.report(otherKeyID, cert.file, "%s: its authority key identifier cannot be read: %v", cert, err)
			return
		}
		if len(id.ID) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(id.ID, parent.SubjectKeyId) {
			e.report(otherKeyID, cert.file, "%s: its authority key identifier names another key than that of %s", cert, parent)
		}
		if id.Serial != nil && id.Serial.Cmp(parent.SerialNumber) != 0 {
			e.report(otherSerialID, cert.file, "%s: its authority key identifier names another serial number than that of %s", cert, parent)
		}
	}
}
