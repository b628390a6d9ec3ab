// SPDX-License-Identifier: Apache-2.0

package rekey

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"slices"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// Kit is what a CA is made of, as texts in PEM.
type Kit struct {
	Root      string `json:"root"`              // certificates of the root: several, if it was renewed
	RootKey   string `json:"rootKey,omitempty"` // none: it is kept elsewhere
	Issuer    string `json:"issuer"`            // its certificate, then intermediates
	IssuerKey string `json:"issuerKey"`
}

// KitOf is the one that a CA's files are now: its roots are those that the issuer is under.
func KitOf(files ca.Files) (Kit, error) {
	anchors, err := ca.Anchors(files)
	if err != nil {
		return Kit{}, err
	}
	return Kit{
		Root: string(ca.EncodeCerts(authorities(files.Roots(), anchors))), RootKey: string(files[ca.RootKeyFile]),
		Issuer: string(files[ca.IssuerFile]), IssuerKey: string(files[ca.IssuerKeyFile]),
	}, nil
}

// Roots are the kit's, or none if they cannot be read.
func (k Kit) Roots() []*x509.Certificate { return ca.Files{ca.RootFile: []byte(k.Root)}.Roots() }

// key names the key of the kit's root, as identity.KeyHash does, in hexadecimal.
func (k Kit) key() string {
	roots := k.Roots()
	if len(roots) == 0 {
		return ""
	}
	sum := identity.KeyHash(roots[0])
	return hex.EncodeToString(sum[:])
}

// files is a CA of this kit and some roots more.
func (k Kit) files(roots []*x509.Certificate) ca.Files {
	files := ca.Files{
		ca.RootFile:   ca.EncodeCerts(append(slices.Clone(roots), without(k.Roots(), roots)...)),
		ca.IssuerFile: []byte(k.Issuer), ca.IssuerKeyFile: []byte(k.IssuerKey),
	}
	if k.RootKey != "" {
		files[ca.RootKeyFile] = []byte(k.RootKey)
	}
	return files
}

// signs reports whether the issuer in files is under the kit's root.
func (k Kit) signs(files ca.Files) bool {
	anchors, err := ca.Anchors(files)
	return err == nil && len(authorities(anchors, k.Roots())) > 0
}

// authorities are the certificates of some that have name and key of one of others.
func authorities(some, others []*x509.Certificate) (all []*x509.Certificate) {
	for _, cert := range some {
		if slices.ContainsFunc(others, func(o *x509.Certificate) bool { return ca.SameAuthority(cert, o) }) {
			all = append(all, cert)
		}
	}
	return all
}

// without returns the certificates of some that others do not have.
func without(some, others []*x509.Certificate) (rest []*x509.Certificate) {
	for _, cert := range some {
		if !slices.ContainsFunc(others, func(o *x509.Certificate) bool { return bytes.Equal(cert.Raw, o.Raw) }) {
			rest = append(rest, cert)
		}
	}
	return rest
}
