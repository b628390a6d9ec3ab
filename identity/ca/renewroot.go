// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// OwnRoot returns why none of the roots in files can be renewed here, whoever has its
// key: another party made it, and renews it. It returns nil if one may be.
func OwnRoot(files Files) error {
	layout, _, _ := Detect(files.names())
	switch layout {
	case Culvert:
	case CertManager:
		return fmt.Errorf("the layout is %q: the root is that of cert-manager's issuer; renew it there", layout)
	default:
		return fmt.Errorf("the layout is %q: the root is its operator's; only that of a CA of the layout %q is renewed here", layout, Culvert)
	}
	roots, err := certificatesOf(files[RootFile])
	if err != nil {
		return fmt.Errorf("%s: %v", RootFile, err)
	}
	if len(roots) == 0 {
		return fmt.Errorf("%s holds no root", RootFile)
	}
	var foreign error
	for _, root := range roots {
		if foreign = selfMade(root); foreign == nil {
			return nil
		}
	}
	return foreign
}

// selfMade returns why a root is another party's to renew, or nil.
func selfMade(root *x509.Certificate) error {
	byItself := weak(root.SignatureAlgorithm) || // Go does not check it
		root.CheckSignature(root.SignatureAlgorithm, root.RawTBSCertificate, root.Signature) == nil
	if byItself && bytes.Equal(root.RawIssuer, root.RawSubject) {
		return nil
	}
	return fmt.Errorf("the root %s is not self-signed: it is that of %s, an upstream authority; renew it there", root.Subject, root.Issuer)
}

// NextRoot returns the file of the roots with one of them renewed, the one whose private
// key is given: a certificate of the same name, key and extensions, with another serial
// number, that ends opts.RootTTL from now. What the root has signed verifies under both
// certificates. The former one stays beside it until it has expired: then it is left out.
func NextRoot(files Files, rootKey crypto.Signer, opts Options) (Files, error) {
	if err := OwnRoot(files); err != nil {
		return nil, err
	}
	root, roots, err := rootOf(files, rootKey)
	if err == nil {
		err = selfMade(root)
	}
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	renewed, err := renewRoot(root, rootKey, opts.RootTTL)
	if err != nil {
		return nil, err
	}
	text := encodeCert(renewed)
	for _, other := range roots {
		if !SameAuthority(other, renewed) || time.Now().Before(other.NotAfter) {
			text = append(text, encodeCert(other)...)
		}
	}
	next := maps.Clone(files)
	next[RootFile] = text
	if err := worse(files, next, opts); err != nil {
		return nil, err
	}
	return Files{RootFile: text}, nil
}

// renewRoot makes a root's next certificate.
//
// It holds from as long ago as clocks of a mesh may be off, so that no node has to wait
// for it. The authority key identifier is left out: it may name the former serial number.
func renewRoot(root *x509.Certificate, key crypto.Signer, ttl time.Duration) (*x509.Certificate, error) {
	next := *root
	next.NotBefore, next.NotAfter = time.Now().Add(-identity.MaxClockSkew), time.Now().Add(ttl)
	if !next.NotAfter.After(root.NotAfter) {
		return nil, fmt.Errorf("the root %s holds until %s already, and would end at %s: ask for a longer lifetime", root.Subject, stamp(root.NotAfter), stamp(next.NotAfter))
	}
	next.SignatureAlgorithm, next.AuthorityKeyId = x509.UnknownSignatureAlgorithm, nil // that of the key
	for _, extension := range root.Extensions {
		if !extension.Id.Equal(oidKeyID) {
			next.ExtraExtensions = append(next.ExtraExtensions, extension)
		}
	}
	return create(&next, &next, key.Public(), key)
}

// worse returns what is an error in next, and none in files. A key that cannot be opened
// ends the examination before the certificates are asked how they stand to each other.
func worse(files, next Files, opts Options) error {
	before := Lint(files, opts)
	var all []error
	for _, d := range Lint(next, opts) {
		switch {
		case d.Severity != Error:
		case slices.Contains([]string{encryptedKey, passphraseUnreadable, passphraseWrong, signerAway}, d.Code):
			return fmt.Errorf("whether the renewed root would be refused is not known: %w", d)
		case !slices.ContainsFunc(before, func(b Defect) bool { return b.Code == d.Code }):
			all = append(all, d)
		}
	}
	if all == nil {
		return nil
	}
	return fmt.Errorf("the renewed root would be refused: %w", errors.Join(all...))
}

// SameAuthority reports whether two certificates have one name and one key: what one
// signed verifies under the other.
func SameAuthority(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// Renewed returns the one among roots that root was renewed by: of its name and key, and
// the last to end. It is nil if there is none that ends later than root.
func Renewed(root *x509.Certificate, roots []*x509.Certificate) (by *x509.Certificate) {
	by = root
	for _, other := range roots {
		if SameAuthority(root, other) && other.NotAfter.After(by.NotAfter) {
			by = other
		}
	}
	if by == root {
		return nil
	}
	return by
}

// Unrenewed returns the roots that were not renewed by one that holds now: each stands for
// those before it.
func Unrenewed(roots []*x509.Certificate, now time.Time) (all []*x509.Certificate) {
	ahead := func(root *x509.Certificate) bool { return now.Before(root.NotBefore) }
	holding := slices.DeleteFunc(slices.Clone(roots), ahead)
	for _, root := range roots {
		if Renewed(root, holding) == nil {
			all = append(all, root)
		}
	}
	return all
}
