// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
)

// Names of a CA's files as Culvert makes them: in its directory, or as keys of its
// Secret.
const (
	RootFile      = "root.pem" // what verifiers trust
	RootKeyFile   = "root.key" // signs the next issuer, and may be kept elsewhere
	IssuerFile    = "issuer.pem"
	IssuerKeyFile = "issuer.key"
	BundleFile    = "bundle.json" // a Record, beside whatever layout the CA has
	RekeyFile     = "rekey.json"  // how far a re-key of the root is, with the keys that it needs; see identity/rekey
)

// HadConfigMap annotates the ConfigMap of the roots: it names the one, as namespace/name,
// that the CA once read the deny set from. That it is gone is no empty set.
const HadConfigMap = "culvert.dev/had-configmap"

var fileNames = []string{RootFile, RootKeyFile, IssuerFile, IssuerKeyFile}

// Files are a CA's certificates and keys in PEM, and its Record, by their names.
type Files map[string][]byte

// Same reports whether both are the same CA, whatever their Records say.
func (f Files) Same(other Files) bool {
	f, other = maps.Clone(f), maps.Clone(other)
	delete(f, BundleFile)
	delete(other, BundleFile)
	return maps.EqualFunc(f, other, bytes.Equal)
}

// replaceable reports whether next may take the place of f, which was expected to be was.
func (f Files) replaceable(was, next Files) bool {
	if _, record := next[BundleFile]; record {
		return bytes.Equal(f[BundleFile], was[BundleFile])
	}
	return f.Same(was)
}

// with returns the files with those of next in their place; what is nil there is removed.
func (f Files) with(next Files) Files {
	all := maps.Clone(f)
	maps.Copy(all, next)
	maps.DeleteFunc(all, func(_ string, content []byte) bool { return content == nil })
	return all
}

// sameAuthority reports whether both have the same certificates and keys, however far a
// re-key is.
func (f Files) sameAuthority(other Files) bool {
	return f.with(Files{RekeyFile: nil}).Same(other.with(Files{RekeyFile: nil}))
}

// Roots are the certificates that the files would have verifiers trust, or none if they
// cannot be read.
func (f Files) Roots() []*x509.Certificate {
	layout, _, _ := Detect(f.names())
	if layout == "" {
		return nil
	}
	roots, _ := certificatesOf(f[of(layout).bundle(f)])
	return roots
}

// Issuer returns the names of the files of the issuer and of its private key, as the
// layout has them that is in use; empty if it cannot be told which is.
func (f Files) Issuer() (certificate, key string) {
	layout, _, _ := Detect(f.names())
	n := of(layout)
	return n.issuer, n.key
}

// What the errors of a Store wrap.
var (
	ErrExists      = errors.New("there is a CA already")
	ErrChanged     = errors.New("another process has changed it meanwhile")
	ErrReadOnly    = errors.New("it cannot be written")
	ErrGone        = errors.New("it was deleted")                // the CA that Culvert had made there: Create may put it back
	ErrUnreachable = errors.New("it cannot be asked at present") // nothing is said about the CA in it
)

// Store is where the one CA of a mesh lives. Its String says where that is. All that
// ever writes to it are Create, for a first CA, and Replace.
type Store interface {
	// Read returns the CA's files: none if nothing says that there ever was a CA. A
	// part of one, or the trace of one that is gone, is an error that says what to do.
	Read(ctx context.Context) (Files, error)
	// Create stores a first CA, all of it or nothing. If there is one by now, it
	// changes nothing and wraps ErrExists.
	Create(ctx context.Context, files Files) error
	// Replace stores the files in next, all or none, if the store holds what Read
	// returned as was: a Record if the Record is the same, other files if all but the
	// Record are. If not, it changes nothing and wraps ErrChanged. It wraps ErrReadOnly
	// if the CA is not Culvert's to write. A file of nil is removed, after all others are
	// stored: a process that is killed in between may leave it.
	Replace(ctx context.Context, was, next Files) error
	// Watch calls changed whenever the CA may be another, until ctx ends. It may miss
	// changes: whoever needs them all reads now and then.
	Watch(ctx context.Context, changed func())
	fmt.Stringer
}

// Load puts the CA of a store in force, and makes it if there never was one. If
// several processes do so at once, one CA is made, and all of them have it.
func (c *CA) Load(ctx context.Context, store Store) error {
	_, err := c.load(ctx, store)
	if errors.Is(err, errUnkept) {
		return nil // it is open, and signs
	}
	return err
}

// load is Load that returns what the store holds, and says if a generation was not
// kept.
func (c *CA) load(ctx context.Context, store Store) (Files, error) {
	files, err := store.Read(ctx)
	if err == nil && files == nil {
		files, err = c.create(ctx, store)
	}
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	_, files, err = c.adopt(ctx, store, files)
	if err != nil {
		return files, fmt.Errorf("open CA in %s: %w", store, err)
	}
	return files, nil
}

// first is a new CA.
func (c *CA) first(ctx context.Context) (Files, error) {
	if c.opts.Upstream != nil {
		return c.upstreamCA(ctx)
	}
	return generate(c.opts)
}

// create stores a new CA and returns its files, or those of whoever was first.
func (c *CA) create(ctx context.Context, store Store) (Files, error) {
	if c.opts.MustExist {
		return nil, fmt.Errorf("%s holds no CA yet, and none is to be made", store)
	}
	files, err := c.first(ctx)
	if err != nil {
		return nil, fmt.Errorf("create it: %w", err)
	}
	if err := store.Create(ctx, files); err != nil && !errors.Is(err, ErrExists) {
		return nil, fmt.Errorf("create it in %s: %w", store, err)
	}
	files, err = store.Read(ctx)
	if err == nil && files == nil {
		err = fmt.Errorf("%s: %w", store, ErrGone)
	}
	return files, err
}
