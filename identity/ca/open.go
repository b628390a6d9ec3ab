// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Files of the directory.
const (
	RootFile      = "root.pem" // what verifiers trust
	RootKeyFile   = "root.key"
	IssuerFile    = "issuer.pem"
	IssuerKeyFile = "issuer.key"
)

var files = []string{RootFile, RootKeyFile, IssuerFile, IssuerKeyFile}

// Open reads the CA that lives in dir. Only if dir is empty, or does not
// exist, is a new one made: whatever else is found there may be the trace of a
// CA that nodes still trust, so a part of the set is refused, and so is a set
// that does not fit together or has expired.
func Open(dir string, opts Options) (*CA, error) {
	opts = opts.withDefaults()
	if opts.TrustDomain.IsZero() {
		return nil, errors.New("open CA: no trust domain")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open CA: %v", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, fmt.Errorf("open CA: %v", err)
	}
	defer unlock()

	missing, err := survey(dir)
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	if len(missing) == len(files) {
		if err := generate(dir, opts); err != nil {
			return nil, fmt.Errorf("create CA in %s: %v", dir, err)
		}
	}
	c, err := load(dir, opts.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("open CA in %s: %w", dir, err)
	}
	return c, nil
}

// survey returns which files are missing: none, or all if dir is empty.
func survey(dir string) (missing []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found, strange []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case slices.Contains(files, name):
			found = append(found, name)
		case name == "lost+found": // a freshly made file system
		default:
			strange = append(strange, name)
		}
	}
	for _, name := range files {
		if !slices.Contains(found, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return nil, nil // what else lies there, say a Secret's ..data, is not ours
	case len(found) > 0:
		return nil, fmt.Errorf("%s holds only a part of a CA: missing %s: restore it from a backup, or, if no node trusts this CA yet, empty the directory",
			dir, strings.Join(missing, ", "))
	case len(strange) > 0:
		return nil, fmt.Errorf("%s holds no CA, yet is not empty (%s): a new CA is made only in an empty directory",
			dir, few(strange))
	}
	return missing, nil
}

// few is a list of names that stays short.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// load reads the four files and checks that they belong together.
func load(dir string, td spiffeid.TrustDomain) (*CA, error) {
	root, rootKey, err := readPair(dir, RootFile, RootKeyFile)
	if err != nil {
		return nil, err
	}
	issuer, issuerKey, err := readPair(dir, IssuerFile, IssuerKeyFile)
	if err != nil {
		return nil, err
	}
	for _, pair := range []struct {
		name, keyName string
		cert          *x509.Certificate
		key           crypto.Signer
		parent        *x509.Certificate
	}{
		{RootFile, RootKeyFile, root, rootKey, root},
		{IssuerFile, IssuerKeyFile, issuer, issuerKey, root},
	} {
		if err := checkKey(pair.cert, pair.key); err != nil {
			return nil, fmt.Errorf("%s does not belong to %s: %v", pair.keyName, pair.name, err)
		}
		if err := checkAuthority(pair.cert, pair.parent, td); err != nil {
			return nil, fmt.Errorf("%s: %w", pair.name, err)
		}
	}
	if err := identity.CheckKey(issuer); err != nil { // no node would take a leaf of it
		return nil, fmt.Errorf("%s: %w", IssuerFile, err)
	}
	return &CA{td: td, root: root, issuer: issuer, key: issuerKey}, nil
}

func checkKey(cert *x509.Certificate, key crypto.Signer) error {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return errors.New("the key is another one")
	}
	return nil
}

func checkAuthority(cert, parent *x509.Certificate, td spiffeid.TrustDomain) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate may not sign others")
	}
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("not signed by %s: %v", RootFile, err)
	}
	for _, uri := range cert.URIs { // none: an authority may leave it open
		if id, err := spiffeid.FromURI(uri); err != nil || id != td.ID() {
			return fmt.Errorf("made for %v, not for the trust domain %v", uri, td)
		}
	}
	now := time.Now()
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("not valid before %v; the clock says %v", stamp(cert.NotBefore), stamp(now))
	}
	if !now.Before(cert.NotAfter) {
		return fmt.Errorf("%w: on %v; the clock says %v", ErrExpired, stamp(cert.NotAfter), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
