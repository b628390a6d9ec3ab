// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
)

// Names of a CA's files: in its directory, or as keys of its Secret.
const (
	RootFile      = "root.pem" // what verifiers trust
	RootKeyFile   = "root.key"
	IssuerFile    = "issuer.pem"
	IssuerKeyFile = "issuer.key"
)

var fileNames = []string{RootFile, RootKeyFile, IssuerFile, IssuerKeyFile}

// Files are a CA's certificates and keys in PEM, by their names.
type Files map[string][]byte

// ErrExists is wrapped by Store.Create if another process was first.
var ErrExists = errors.New("there is a CA already")

// Store is where the one CA of a mesh lives. Its String says where that is.
type Store interface {
	// Read returns the CA's files: none if nothing says that there ever was a CA. A
	// part of one, or the trace of one that is gone, is an error that says what to do.
	Read(ctx context.Context) (Files, error)
	// Create stores a first CA, all of it or nothing. If there is one by now, it
	// changes nothing and wraps ErrExists.
	Create(ctx context.Context, files Files) error
	fmt.Stringer
}

// Load puts the CA of a store in force, and makes it if there never was one. If
// several processes do so at once, one CA is made, and all of them have it.
func (c *CA) Load(ctx context.Context, store Store) error {
	files, err := store.Read(ctx)
	if err == nil && files == nil {
		files, err = c.create(ctx, store)
	}
	if err != nil {
		return fmt.Errorf("open CA: %w", err)
	}
	if _, err := c.Take(files); err != nil {
		return fmt.Errorf("open CA in %s: %w", store, err)
	}
	return nil
}

// create stores a new CA and returns its files, or those of whoever was first.
func (c *CA) create(ctx context.Context, store Store) (Files, error) {
	files, err := generate(c.opts)
	if err != nil {
		return nil, fmt.Errorf("create it: %v", err)
	}
	if err := store.Create(ctx, files); errors.Is(err, ErrExists) {
		return store.Read(ctx)
	} else if err != nil {
		return nil, fmt.Errorf("create it in %s: %w", store, err)
	}
	return files, nil
}

// Take puts files in force, if they are a CA that verifiers of the one in force
// accept: another issuer under the same root. It reports whether anything
// changed. What it refuses changes nothing.
func (c *CA) Take(files Files) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, err := c.parse(files)
	if err != nil {
		return false, err
	}
	switch now := c.inForce.Load(); {
	case now == nil:
	case !now.root.Equal(next.root):
		return false, fmt.Errorf("%s is another root than the one that nodes trust: the root cannot be changed while the CA runs", RootFile)
	case now.issuer.Equal(next.issuer):
		return false, nil
	}
	c.inForce.Store(next)
	return true, nil
}

// generate makes root and issuer.
//
// P-256 for both: each handshake verifies the issuer under the root, and a
// P-384 signature takes Go ten times as long.
func generate(opts Options) (Files, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root, err := selfSigned(opts, rootKey)
	if err != nil {
		return nil, err
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := authorityTemplate("culvert issuer", opts.TrustDomain, opts.IssuerTTL, 0)
	template.NotAfter = earliest(template.NotAfter, root.NotAfter)
	issuer, err := create(template, root, issuerKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	files := Files{RootFile: encodeCert(root), IssuerFile: encodeCert(issuer)}
	if files[RootKeyFile], err = encodeKey(rootKey); err != nil {
		return nil, err
	}
	files[IssuerKeyFile], err = encodeKey(issuerKey)
	return files, err
}

func selfSigned(opts Options, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	// The number makes the subject unique: verifiers look roots up by it, and
	// two roots of one name slow down or confuse some of them.
	template := authorityTemplate(fmt.Sprintf("culvert root %x", n.Bytes()[:4]), opts.TrustDomain, opts.RootTTL, 1)
	return create(template, template, key.Public(), key)
}
