// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// form makes the leaves of an issuer whose key is ECDSA and in this process. What all
// of them have in common is encoded once. They are byte for byte what
// x509.CreateCertificate makes, which costs more than twice as much: it verifies each
// signature that it makes. That finds a signer outside this process that misbehaves;
// our own key was proved when it was put in force, and whoever asked for the leaf
// verifies it.
type form struct {
	key        *ecdsa.PrivateKey
	hash       crypto.Hash
	algorithm  []byte // AlgorithmIdentifier of the signature
	issuer     []byte // Name
	extensions []byte // of every leaf, all but its name
}

// particulars are what leaves differ in.
type particulars struct {
	serial              *big.Int
	id                  spiffeid.ID
	dnsNames            []string // beside it
	process             string   // see CA.Issue
	key                 crypto.PublicKey
	notBefore, notAfter time.Time // of whole seconds
}

// newForm is that of an issuer, or nil if x509.CreateCertificate must make its leaves.
func newForm(issuer *x509.Certificate, signer crypto.Signer) *form {
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(issuer.PublicKey) {
		return nil
	}
	f := &form{key: key, issuer: issuer.RawSubject}
	var oid asn1.ObjectIdentifier
	switch key.Curve {
	case elliptic.P256():
		f.hash, oid = crypto.SHA256, oidECDSAWithSHA256
	case elliptic.P384():
		f.hash, oid = crypto.SHA384, oidECDSAWithSHA384
	default:
		return nil
	}
	var algorithm, extensions cryptobyte.Builder
	addAlgorithm(&algorithm, oid)
	addCommonExtensions(&extensions, issuer)
	f.algorithm, f.extensions = algorithm.BytesOrPanic(), extensions.BytesOrPanic() // nothing in them can be wrong
	return f
}

// sign returns a leaf in DER (RFC 5280, 4.1).
func (f *form) sign(p particulars) ([]byte, error) {
	signed, err := f.signed(p)
	if err != nil {
		return nil, err
	}
	digest := f.hash.New()
	digest.Write(signed)
	signature, err := ecdsa.SignASN1(rand.Reader, f.key, digest.Sum(nil))
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(signed)+len(f.algorithm)+len(signature)+16))
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		b.AddBytes(f.algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// signed is what the signature is of: TBSCertificate of RFC 5280.
func (f *form) signed(p particulars) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(f.issuer)+len(f.extensions)+len(p.process)+len(p.id.String())+320))
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // version 3
		b.AddASN1BigInt(p.serial)
		b.AddBytes(f.algorithm)
		b.AddBytes(f.issuer)
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, p.notBefore)
			addTime(b, p.notAfter)
		})
		addSubject(b, p.process)
		addKey(b, p.key)
		b.AddASN1(der.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(f.extensions)
				addNames(b, p.id, p.dnsNames, p.process == "")
			})
		})
	})
	return b.Bytes()
}
