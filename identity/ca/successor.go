// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/mldsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Anchors returns those roots in files that their issuer's chain leads to: several, if one
// was renewed with its key. It wants the layout that Culvert makes.
func Anchors(files Files) ([]*x509.Certificate, error) {
	if layout, _, _ := Detect(files.names()); layout != Culvert {
		return nil, fmt.Errorf("the layout is %q: only the root of a CA of the layout %q is re-keyed by Culvert", layout, Culvert)
	}
	chain, err := certificatesOf(files[IssuerFile])
	if err != nil || len(chain) == 0 {
		return nil, fmt.Errorf("%s holds no certificate that can be read", IssuerFile)
	}
	var anchors []*x509.Certificate
	for _, root := range files.Roots() {
		if chain[len(chain)-1].CheckSignatureFrom(root) == nil {
			anchors = append(anchors, root)
		}
	}
	if anchors == nil {
		return nil, fmt.Errorf("no root in %s has signed %s", RootFile, IssuerFile)
	}
	return anchors, nil
}

// Refuses says why files would not be put in force if they were the first, or nil.
func (c *CA) Refuses(files Files) error {
	_, err := c.parse(files)
	return err
}

// EncodeCerts is certificates in PEM, one after the other.
func EncodeCerts(certs []*x509.Certificate) (text []byte) {
	for _, cert := range certs {
		text = append(text, encodeCert(cert)...)
	}
	return text
}

// IssuerOf is the certificate that signs leaves by files in the layout that Culvert makes,
// or nil.
func IssuerOf(files Files) *x509.Certificate {
	chain, err := certificatesOf(files[IssuerFile])
	if err != nil || len(chain) == 0 {
		return nil
	}
	return chain[0]
}

// ErrEncrypted is why no successor is made: the keys of the CA are encrypted, and those of the
// next one would not be.
var ErrEncrypted = errors.New("its key is encrypted, and the next one would not be")

// ErrHeld is why no successor is made: a signer has the key, and the next one would lie in a file.
var ErrHeld = errors.New("a signer has its key, and would not have the next one")

// Successor returns the files of another CA for the trust domain of files, as Make does. Its
// keys are of the kind of the root's, unless opts.Keys says of which, or a signer has the next
// root's.
func Successor(files Files, opts Options) (Files, error) {
	for _, name := range []string{RootKeyFile, IssuerKeyFile} {
		if encryptedIn(files[name]) {
			return nil, fmt.Errorf("%s: %w", name, ErrEncrypted)
		}
		given := opts.RootKey
		if name == IssuerKeyFile {
			given = opts.IssuerKey
		}
		if _, held := keyOf(files[name]).(*signing.Key); held && given == nil {
			return nil, fmt.Errorf("%s: %w", name, ErrHeld)
		}
	}
	opts.TrustDomain = domainOf(files)
	if opts.Keys == "" && opts.RootKey == nil {
		opts.Keys = keyKindOf(files)
	}
	return Make(opts)
}

// keyKindOf is the kind of keys that a CA has, as far as Culvert makes it: P256 for all others.
func keyKindOf(files Files) identity.KeyKind {
	roots, err := Anchors(files)
	if err != nil {
		roots = files.Roots()
	}
	for _, root := range roots {
		if _, ok := root.PublicKey.(*mldsa.PublicKey); ok {
			return identity.MLDSA65
		}
	}
	return identity.P256
}

// OwnLayout returns the files of a CA under the names that Culvert gives to them.
func OwnLayout(files Files) (Files, error) {
	layout, missing, err := Detect(files.names())
	switch {
	case err != nil:
		return nil, err
	case layout == "":
		return nil, errors.New("there is no CA")
	case len(missing) > 0:
		return nil, fmt.Errorf("a part of the CA is missing: %s", strings.Join(missing, ", "))
	}
	n := of(layout)
	own := Files{
		RootFile: files[n.bundle(files)], IssuerKeyFile: files[n.key],
		IssuerFile: slices.Concat(files[n.issuer], []byte("\n"), files[n.chain]),
	}
	if key, there := files[n.rootKey]; there {
		own[RootKeyFile] = key
	}
	return own, nil
}
