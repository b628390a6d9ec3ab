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
	"sync"
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
	// After each failure it is left alone for twice as long as before.
	firstUpstreamPause, lastUpstreamPause = time.Second, 10 * time.Minute
)

// upstreamIssuerName is the common name of issuers that are had from upstream. It is the mark
// of a CA whose next issuers are to come from there: the root of one whose issuer Culvert
// made itself, as issuerName, is another's, wherever its key is.
const upstreamIssuerName = "culvert upstream issuer"

// attempts spaces what fails upstream: each issuer that is signed and then refused, and each
// login, costs there.
type attempts struct {
	mu    sync.Mutex // guards what follows
	last  error      // what the last attempt came to
	pause time.Duration
	again time.Time // when the next may be
}

// waiting is what the last attempt came to, while it is too early for the next.
func (a *attempts) waiting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil && time.Now().Before(a.again) {
		return a.last
	}
	return nil
}

// ended notes what an attempt came to, and returns it.
func (a *attempts) ended(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = err
	if err == nil {
		a.pause = 0
		return nil
	}
	a.pause = min(max(2*a.pause, firstUpstreamPause), lastUpstreamPause)
	a.again = time.Now().Add(a.pause)
	return err
}

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
	chain, err := opts.Upstream.Sign(ctx, csr, upstreamIssuerName, opts.TrustDomain.ID().URL(), opts.IssuerTTL)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	if len(chain) < 2 || !belongs(key, chain[0]) || chain[0].Subject.CommonName != upstreamIssuerName {
		return nil, nil, fmt.Errorf("%w: %s: what it signed is not the issuer that was asked for", ErrUpstream, opts.Upstream)
	}
	last := len(chain) - 1
	if err := c.refusesRoot(was, chain[last]); err != nil {
		return nil, nil, err
	}
	files = Files{IssuerFile: EncodeCerts(chain[:last])}
	files[IssuerKeyFile], err = encodeKey(key)
	return files, chain[last], err
}

// refusesRoot says why nodes are not to trust a root of the upstream authority, or nil.
// Whoever answers in its place must not reach them, nor the store: by what would be refused
// there, no CA opens any more.
func (c *CA) refusesRoot(files Files, root *x509.Certificate) error {
	e := &examination{opts: c.opts, files: files, names: of(Culvert)}
	added := certificate{Certificate: root, file: RootFile}
	for _, other := range files.Roots() {
		e.roots = append(e.roots, certificate{Certificate: other, file: RootFile})
	}
	var err error
	switch now := time.Now(); {
	case slices.ContainsFunc(e.roots, added.is):
		return nil
	case root.CheckSignatureFrom(root) != nil:
		err = fmt.Errorf("what its chain ends with is no root, for its own key has not signed it: %s", describe(root))
	case !added.holds(now):
		err = fmt.Errorf("its root does not hold now: %s", describe(root))
	default:
		e.roots = append(e.roots, added)
		e.checkAuthority(added)
		e.checkRoot(added)
		if refused := e.errors(); refused != nil {
			err = refused
		} else if c.Refuses(files) == nil { // else it is no fault of the root's: the issuer has expired
			err = c.Refuses(files.with(withRoot(files, root)))
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", ErrUpstream, c.opts.Upstream, err)
}

// withRoot is what becomes of files by one root more.
func withRoot(files Files, root *x509.Certificate) Files {
	return Files{RootFile: append(bytes.Clone(files[RootFile]), encodeCert(root)...)}
}

// upstreamCA is a first CA under the upstream authority's root.
func (c *CA) upstreamCA(ctx context.Context) (Files, error) {
	if err := c.upstream.waiting(); err != nil {
		return nil, err
	}
	files, root, err := c.upstreamIssuer(ctx, nil)
	if err == nil {
		files[RootFile] = encodeCert(root)
		if refused := c.Refuses(files); refused != nil {
			err = fmt.Errorf("%w: %s: %w", ErrUpstream, c.opts.Upstream, refused)
		}
	}
	return files, c.upstream.ended(err)
}

// ofUpstream reports whether files are those of a CA that has its issuers from upstream: a
// root whose key is there, or an issuer that came from elsewhere, is not replaced.
func (f Files) ofUpstream() bool {
	layout, _, _ := Detect(f.names())
	_, own := f[RootKeyFile]
	issuer := IssuerOf(f)
	return layout == Culvert && !own && issuer != nil && issuer.Subject.CommonName == upstreamIssuerName
}

// renewUpstream adds the upstream authority's root to the bundle when it has another, and
// stores the next issuer when it is time. It returns what the store holds then. A root is
// known to nodes for a while before an issuer under it signs.
func (k *Keeper) renewUpstream(ctx context.Context, files Files) (Files, error) {
	issuer := IssuerOf(files)
	due := !time.Now().Before(k.due(issuer))
	if !due && time.Since(k.askedUpstream) < upstreamEvery {
		return files, k.rootRefused
	}
	if err := k.ca.upstream.waiting(); due && err != nil {
		return files, unrenewed(err)
	}
	k.askedUpstream, k.rootRefused = time.Now(), nil
	chain, err := k.ca.opts.Upstream.Chain(ctx)
	if err != nil {
		if !due {
			return files, nil // it is asked again before it is needed
		}
		return files, k.unrenewed(k.ca.upstream.ended(fmt.Errorf("%w: %w", ErrUpstream, err)))
	}
	root := chain[len(chain)-1]
	if !slices.ContainsFunc(files.Roots(), root.Equal) {
		if err := k.ca.refusesRoot(files, root); err != nil {
			k.rootRefused = k.unrenewed(k.ca.upstream.ended(err))
			return files, k.rootRefused
		}
		return k.stored(ctx, files, withRoot(files, root))
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
	if err := k.ca.upstream.waiting(); err != nil {
		return files, unrenewed(err)
	}
	next, root, err := k.ca.upstreamIssuer(ctx, files)
	if err == nil && !slices.ContainsFunc(files.Roots(), root.Equal) {
		k.ca.upstream.ended(nil)
		return k.stored(ctx, files, withRoot(files, root)) // it changed just now
	}
	if err == nil {
		if refused := k.ca.Refuses(files.with(next)); refused != nil {
			err = fmt.Errorf("%w: %s: %w", ErrUpstream, k.ca.opts.Upstream, refused)
		}
	}
	if k.ca.upstream.ended(err) != nil {
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

func unrenewed(err error) error { return fmt.Errorf("renew the issuer: %w", err) }

// unrenewed tells once why the issuer is not renewed.
func (k *Keeper) unrenewed(err error) error {
	err = unrenewed(err)
	if err.Error() != k.Trouble().Problem {
		k.happened(Event{Reason: IssuerRenewalFailed, Warning: true, Message: err.Error()})
	}
	return err
}
