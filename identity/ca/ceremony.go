// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Make returns the files of a new CA, as Load would make it: root and issuer, each with
// its private key. A root's key that is to be kept elsewhere is taken out of them before
// they are stored.
func Make(opts Options) (Files, error) {
	if opts.TrustDomain.IsZero() {
		return nil, errors.New("no trust domain")
	}
	if err := opts.fits(); err != nil {
		return nil, err
	}
	return generate(opts.withDefaults())
}

// fits says why the keys of signers are not those of the CA that is asked for, or nil.
func (o Options) fits() error {
	switch {
	case o.RootKey != nil && sameKey(o.RootKey, o.IssuerKey):
		return errOneKey
	case o.Keys == identity.MLDSA65 && (o.RootKey != nil || o.IssuerKey != nil):
		return fmt.Errorf("keys of the kind %s are made here, and no signer has one: its own key is of another kind", o.Keys)
	}
	return nil
}

var errOneKey = errors.New("root and issuer have the same key of a signer: whoever may have leaves signed could make authorities, and no next issuer would end that")

// sameKey reports whether a signer has the key, under whichever URI.
func sameKey(key crypto.Signer, held *signing.Key) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return held != nil && ok && public.Equal(held.Public())
}

// NextIssuer returns the files of another issuer under the root in files whose private
// key is given: its certificate and its key, to take the place of those of the former
// one. Leaves of that hold on. Only the layout of Culvert has an issuer that Culvert
// makes; whoever brings their own CA brings the next issuer too.
func NextIssuer(files Files, rootKey crypto.Signer, opts Options) (Files, error) {
	if layout, _, _ := Detect(files.names()); layout != Culvert {
		return nil, fmt.Errorf("the layout is %q: only a CA of the layout %q gets its issuers here", layout, Culvert)
	}
	root, _, err := rootOf(files, rootKey)
	switch {
	case err != nil:
		return nil, err
	case !time.Now().Add(MinTTL).Before(root.NotAfter):
		return nil, fmt.Errorf("the root %s: %w: at %s", root.Subject, ErrExpired, stamp(root.NotAfter))
	}
	if opts.TrustDomain.IsZero() {
		opts.TrustDomain = domainOf(files)
	}
	opts = opts.withDefaults()
	opts.IssuerKey = files.issuerKey(opts)
	if sameKey(rootKey, opts.IssuerKey) {
		return nil, errOneKey
	}
	return generateIssuer(opts, opts.IssuerTTL, root, rootKey)
}

// issuerKey is the signer's key that the next issuer is to have: that of opts, or the one
// that the issuer in files has. It is nil if the next issuer gets a key of its own.
func (f Files) issuerKey(opts Options) *signing.Key {
	if opts.IssuerKey != nil {
		return opts.IssuerKey
	}
	held, _ := keyOf(f[IssuerKeyFile]).(*signing.Key)
	return held
}

// rootOf is the root whose private key is given, the last to end if there are several,
// and all roots.
func rootOf(files Files, key crypto.Signer) (root *x509.Certificate, roots []*x509.Certificate, err error) {
	roots, err = certificatesOf(files[RootFile])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %v", RootFile, err)
	}
	if root = latestOf(roots, key); root == nil {
		return nil, nil, fmt.Errorf("the private key is that of no root in %s", RootFile)
	}
	return root, roots, nil
}

// latestOf is the root of a key, the last to end if there are several, or nil.
func latestOf(roots []*x509.Certificate, key crypto.Signer) (latest *x509.Certificate) {
	for _, root := range roots {
		if belongs(key, root) && (latest == nil || root.NotAfter.After(latest.NotAfter)) {
			latest = root
		}
	}
	return latest
}
