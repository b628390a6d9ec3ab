// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// Successor returns the files of another CA for the trust domain of files, as Make does.
func Successor(files Files, opts Options) (Files, error) {
	opts.TrustDomain = domainOf(files)
	return Make(opts)
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
