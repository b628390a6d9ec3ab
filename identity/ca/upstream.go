// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Upstream is an authority that has the root, and signs the CA's issuers.
type Upstream interface {
	// Sign signs an issuer of a name and URI, with the key of a CSR in DER. It returns the
	// issuer, and what is above it, the root the last.
	Sign(ctx context.Context, csr []byte, name string, uri *url.URL, ttl time.Duration) ([]*x509.Certificate, error)
	// Chain is what it signs issuers with now, the root the last.
	Chain(ctx context.Context) ([]*x509.Certificate, error)
	fmt.Stringer
}

// ErrUpstream is wrapped when the upstream authority does not answer, or signs no issuer.
var ErrUpstream = errors.New("the upstream authority gives no issuer")

const (
	// upstreamEvery is how often it is asked for its root.
	upstreamEvery = 10 * time.Minute
	// rootKnownFor is how long nodes have a root before an issuer under it signs.
	rootKnownFor = 10 * time.Minute
)

// upstreamIssuer has the upstream authority sign an issuer, and returns its files, with its root.
func (c *CA) upstreamIssuer(ctx context.Context, was Files) (files Files, root *x509.Certificate, err error) {
	opts := c.opts
	key, err := keyFor(was.issuerKey(opts), opts.Keys)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, err
	}
	chain, err := opts.Upstream.Sign(ctx, csr, issuerName, opts.TrustDomain.ID().URL(), opts.IssuerTTL)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	if len(chain) < 2 || !belongs(key, chain[0]) {
		return nil, nil, fmt.Errorf("%w: %s: what it signed is not the issuer that was asked for", ErrUpstream, opts.Upstream)
	}
	last := len(chain) - 1
	files = Files{IssuerFile: EncodeCerts(chain[:last])}
	files[IssuerKeyFile], err = encodeKey(key)
	return files, chain[last], err
}

// upstreamCA is a first CA under the upstream authority's root.
func (c *CA) upstreamCA(ctx context.Context) (Files, error) {
	files, root, err := c.upstreamIssuer(ctx, nil)
	if err != nil {
		return nil, err
	}
	files[RootFile] = encodeCert(root)
	if err := c.Refuses(files); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUpstream, c.opts.Upstream, err)
	}
	return files, nil
}

// ofUpstream reports whether files are those of a CA that has its issuers from upstream: a
// root whose key is there, or another's issuer, is not replaced.
func (f Files) ofUpstream() bool {
	layout, _, _ := Detect(f.names())
	_, own := f[RootKeyFile]
	issuer := IssuerOf(f)
	return layout == Culvert && !own && issuer != nil && issuer.Subject.CommonName == issuerName
}

// renewUpstream adds the upstream authority's root to the bundle when it has another, and
// stores the next issuer when it is time. It returns what the store holds then. A root is
// known to nodes for a while before an issuer under it signs.
func (k *Keeper) renewUpstream(ctx context.Context, files Files) (Files, error) {
	issuer := IssuerOf(files)
	due := !time.Now().Before(k.due(issuer))
	if !due && time.Since(k.askedUpstream) < upstreamEvery {
		return files, nil
	}
	k.askedUpstream = time.Now()
	chain, err := k.ca.opts.Upstream.Chain(ctx)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUpstream, err)
		if !due {
			return files, nil // it is asked again before it is needed
		}
		return files, k.unrenewed(err)
	}
	root := chain[len(chain)-1]
	if !slices.ContainsFunc(files.Roots(), root.Equal) {
		return k.stored(ctx, files, Files{RootFile: append(bytes.Clone(files[RootFile]), encodeCert(root)...)})
	}
	if !due || !k.known(files, root) {
		return files, nil
	}
	return k.reissueUpstream(ctx, files)
}

// known reports whether nodes have a root for long enough: one that the issuer in files is
// under, or any if the bundle is that old.
func (k *Keeper) known(files Files, root *x509.Certificate) bool {
	chain, _ := certificatesOf(files[IssuerFile])
	if len(chain) > 0 && chain[len(chain)-1].CheckSignatureFrom(root) == nil {
		return true
	}
	generation, roots := k.ca.Bundle()
	return slices.ContainsFunc(roots, root.Equal) && time.Since(time.Unix(int64(generation), 0)) >= rootKnownFor
}

// reissueUpstream stores the next issuer, unless it would be refused.
func (k *Keeper) reissueUpstream(ctx context.Context, files Files) (Files, error) {
	next, root, err := k.ca.upstreamIssuer(ctx, files)
	if err == nil && !slices.ContainsFunc(files.Roots(), root.Equal) {
		next = Files{RootFile: append(bytes.Clone(files[RootFile]), encodeCert(root)...)} // it changed just now
	}
	if err == nil {
		if refused := k.ca.Refuses(files.with(next)); refused != nil {
			err = fmt.Errorf("%w: %s: %w", ErrUpstream, k.ca.opts.Upstream, refused)
		}
	}
	if err != nil {
		return files, k.unrenewed(err)
	}
	all, err := k.stored(ctx, files, next)
	if err == nil && !all.Same(files) {
		k.happened(Event{Reason: IssuerRenewed, Message: "the next issuer is stored: " + describe(IssuerOf(all))})
	}
	return all, err
}

// stored replaces files of the store by next, and returns what it holds then.
func (k *Keeper) stored(ctx context.Context, files, next Files) (Files, error) {
	switch err := k.store.Replace(ctx, files, next); {
	case errors.Is(err, ErrChanged):
		return files, nil // another replica was faster: take reads it
	case err != nil:
		return files, k.unrenewed(err)
	}
	return files.with(next), nil
}

// unrenewed tells once why the issuer is not renewed.
func (k *Keeper) unrenewed(err error) error {
	err = fmt.Errorf("renew the issuer: %w", err)
	if err.Error() != k.Trouble().Problem {
		k.happened(Event{Reason: IssuerRenewalFailed, Warning: true, Message: err.Error()})
	}
	return err
}
