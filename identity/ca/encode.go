// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidECDSAWithSHA512 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	oidMLDSA65         = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}
	oidEd25519         = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidECPublicKey     = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256            = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384            = asn1.ObjectIdentifier{1, 3, 132, 0, 34}

	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// addCommonExtensions adds those that say what a leaf is for, and by whose key.
func addCommonExtensions(b *cryptobyte.Builder, issuer *x509.Certificate) {
	addExtension(b, oidKeyUsage, true, func(b *cryptobyte.Builder) {
		b.AddASN1(der.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte{7, 1 << 7}) }) // digitalSignature, 7 bits unused
	})
	addExtension(b, oidExtendedKeyUsage, false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidClientAuth)
			b.AddASN1ObjectIdentifier(oidServerAuth)
		})
	})
	addExtension(b, oidBasicConstraints, true, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {}) // cA is FALSE by default
	})
	if len(issuer.SubjectKeyId) > 0 {
		addExtension(b, oidKeyID, false, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(der.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuer.SubjectKeyId) })
			})
		})
	}
}

// addNames adds the SPIFFE ID, the leaf's one URI, after DNS names, as crypto/x509 orders
// them. The names are critical beside an empty subject (RFC 5280, 4.2.1.6).
func addNames(b *cryptobyte.Builder, id spiffeid.ID, dnsNames []string, critical bool) {
	addExtension(b, oidSubjectAltName, critical, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, name := range dnsNames {
				b.AddASN1(der.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
			}
			b.AddASN1(der.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(id.String())) })
		})
	})
}

func addExtension(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if critical { // FALSE is the default, which DER omits
			b.AddASN1Boolean(true)
		}
		b.AddASN1(der.OCTET_STRING, value)
	})
}

// addSubject adds the name of a process, or that of a pod, which is empty.
func addSubject(b *cryptobyte.Builder, process string) {
	if process == "" {
		b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {})
		return
	}
	name, err := asn1.Marshal(subjectOf(process).ToRDNSequence())
	if err != nil {
		b.SetError(err)
		return
	}
	b.AddBytes(name)
}

func subjectOf(process string) pkix.Name { return pkix.Name{SerialNumber: process} }

// addTime adds a Time: in two digits of the year as long as these suffice (RFC 5280,
// 4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	t = t.UTC()
	if year := t.Year(); 1950 <= year && year < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

func addAlgorithm(b *cryptobyte.Builder, oids ...asn1.ObjectIdentifier) {
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, oid := range oids {
			b.AddASN1ObjectIdentifier(oid)
		}
	})
}

// EncodeKey is x509.MarshalPKIXPublicKey for the kinds of keys that are certified.
func EncodeKey(key crypto.PublicKey) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 128))
	addKey(b, key)
	return b.Bytes()
}

// addKey adds a SubjectPublicKeyInfo (RFC 5480, 2; RFC 8410, 4; RFC 9881, 4).
func addKey(b *cryptobyte.Builder, key crypto.PublicKey) {
	var algorithm []asn1.ObjectIdentifier
	var bits []byte
	var err error
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			algorithm = []asn1.ObjectIdentifier{oidECPublicKey, oidP256}
		case elliptic.P384():
			algorithm = []asn1.ObjectIdentifier{oidECPublicKey, oidP384}
		default:
			err = ErrKeyNotAllowed
		}
		if err == nil {
			bits, err = key.Bytes() // of a point that is not on the curve: an error
		}
	case ed25519.PublicKey:
		algorithm, bits = []asn1.ObjectIdentifier{oidEd25519}, key
		if len(key) != ed25519.PublicKeySize {
			err = ErrKeyNotAllowed
		}
	case *mldsa.PublicKey:
		algorithm, bits = []asn1.ObjectIdentifier{oidMLDSA65}, key.Bytes()
		if key.Parameters() != mldsa.MLDSA65() {
			err = ErrKeyNotAllowed
		}
	default:
		err = ErrKeyNotAllowed
	}
	if err != nil {
		b.SetError(err)
		return
	}
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		addAlgorithm(b, algorithm...)
		b.AddASN1BitString(bits)
	})
}
