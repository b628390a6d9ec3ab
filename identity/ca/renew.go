// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// RenewalState says whether Culvert renews the issuer, or why not.
type RenewalState string

// States of renewal.
const (
	RenewalAutomatic RenewalState = "automatic"    // at half the issuer's life
	RenewalOffline   RenewalState = "offline_root" // root.key is not in the store
	RenewalOperator  RenewalState = "operator"     // the issuer is not one that Culvert made
	RenewalReadOnly  RenewalState = "read_only"    // the store cannot be written
	RenewalUpstream  RenewalState = "upstream"     // at half the issuer's life, by the upstream authority
	RenewalRootEnds  RenewalState = "root_ends"    // the issuer lives as long as its root already
)

// Renewal is what is known of the next issuer.
type Renewal struct {
	State RenewalState
	Due   time.Time // half the issuer's life: when it is renewed, or should be by its operator
	End   time.Time // of the issuer
}

func (r Renewal) String() string {
	switch r.State {
	case RenewalAutomatic:
		return fmt.Sprintf("at half its life, from %s on", stamp(r.Due))
	case RenewalUpstream:
		return fmt.Sprintf("by the upstream authority, at half its life, from %s on", stamp(r.Due))
	case RenewalOffline:
		return fmt.Sprintf("not by Culvert: %s is not where the CA is, or cannot be opened; put another issuer there before %s", RootKeyFile, stamp(r.End))
	case RenewalReadOnly:
		return fmt.Sprintf("not by Culvert: what holds the CA cannot be written; put another issuer there before %s", stamp(r.End))
	case RenewalRootEnds:
		return fmt.Sprintf("no more: its root ends with it on %s; renew the root before that (culvert ca renew-root), or change it", stamp(r.End))
	}
	return fmt.Sprintf("not by Culvert, which did not make it; put another issuer there before %s", stamp(r.End))
}

// Renewal is the state as of the last look at the store.
func (k *Keeper) Renewal() Renewal {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.renewal
}

// signer is a root with its key, and the issuer that is to be followed.
type signer struct {
	root   *x509.Certificate
	key    crypto.Signer
	issuer *x509.Certificate
	ends   []time.Time // of the root's certificates, the former ones too
}

// signer finds what files hold to renew their issuer, or why that must not be.
func (f Files) signer(opts Options) (signer, RenewalState) {
	var s signer
	issuers, err := certificatesOf(f[IssuerFile])
	if layout, _, _ := Detect(f.names()); layout != Culvert || err != nil || len(issuers) != 1 || issuers[0].Subject.CommonName != issuerName {
		return s, RenewalOperator
	}
	s.issuer, s.key = issuers[0], f.rootKey(opts)
	roots, _ := certificatesOf(f[RootFile])
	if s.key != nil {
		s.root = latestOf(roots, s.key)
	}
	if s.root == nil || s.issuer.CheckSignatureFrom(s.root) != nil { // of another root, while the root is re-keyed
		return s, RenewalOffline
	}
	for _, root := range roots {
		if s.ofThatRoot(root) {
			s.ends = append(s.ends, root.NotAfter)
		}
	}
	if !s.root.NotAfter.After(s.issuer.NotAfter) || !time.Now().Add(MinTTL).Before(s.root.NotAfter) {
		return s, RenewalRootEnds
	}
	return s, RenewalAutomatic
}

// rootKey is the key of a root, or nil if it is not there or cannot be opened.
func (f Files) rootKey(opts Options) crypto.Signer {
	if _, there := f[RootKeyFile]; !there {
		return nil
	}
	e := &examination{opts: opts, files: f, names: of(Culvert)}
	return e.privateKey(RootKeyFile)
}

// ofThatRoot reports whether a certificate has name and key of the root.
func (s signer) ofThatRoot(cert *x509.Certificate) bool { return SameAuthority(cert, s.root) }

// life is that of the former issuer, without what it was backdated. One that ends with a
// root, or has no room for some leaves, was cut short by the root's end: it is no measure.
func (s signer) life(opts Options) time.Duration {
	life := s.issuer.NotAfter.Sub(s.issuer.NotBefore) - maxBackdate
	if slices.ContainsFunc(s.ends, s.issuer.NotAfter.Equal) || life < leavesInLife*max(opts.LeafTTL, MinTTL) {
		return opts.IssuerTTL
	}
	return life
}

// plan notes how the issuer in force, which came by files, will be renewed, and warns
// from half its life on if it will not be.
func (k *Keeper) plan(files Files) {
	issuer := k.ca.Issuer()
	_, state := files.signer(k.ca.opts)
	if k.ca.opts.Upstream != nil && files.ofUpstream() {
		state = RenewalUpstream
	}
	k.mu.Lock()
	if k.renewal.State == RenewalReadOnly && state == RenewalAutomatic && k.renewal.End.Equal(issuer.NotAfter) {
		state = RenewalReadOnly
	}
	k.renewal = Renewal{State: state, Due: middle(issuer), End: issuer.NotAfter}
	renewal := k.renewal
	k.mu.Unlock()
	now := time.Now()
	if state == RenewalAutomatic || state == RenewalUpstream || now.Before(renewal.Due) || now.Sub(k.warned).Abs() < 24*time.Hour {
		return
	}
	k.warned = now
	k.happened(Event{Reason: IssuerExpiring, Warning: true, Message: fmt.Sprintf("the issuer ends on %s, and is renewed %v", stamp(issuer.NotAfter), renewal)})
}

// renew stores the next issuer if it is time, and returns what the store holds then:
// files, if nothing was to be done. The wall clock decides, whatever it did.
//
// It signs by a root that is in force alone, or by one in force that was renewed: what
// else somebody put into the store is not ours to write over.
func (k *Keeper) renew(ctx context.Context, files Files) (Files, error) {
	if k.ca.opts.Upstream != nil && files.ofUpstream() {
		return k.renewUpstream(ctx, files)
	}
	s, state := files.signer(k.ca.opts)
	if state != RenewalAutomatic {
		return files, nil
	}
	if _, roots := k.ca.Bundle(); !slices.ContainsFunc(roots, s.ofThatRoot) || time.Now().Before(k.due(s.issuer)) {
		return files, nil
	}
	next, err := k.reissue(ctx, files, s)
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, ErrChanged):
		return files, nil // another replica was faster: take reads it
	case errors.Is(err, ErrReadOnly):
		k.mu.Lock()
		defer k.mu.Unlock()
		k.renewal.State = RenewalReadOnly
		return files, nil
	}
	return files, err
}

// due is half the issuer's life, and a while that replicas do not have in common.
func (k *Keeper) due(issuer *x509.Certificate) time.Time {
	return middle(issuer).Add(time.Duration(k.share * float64(issuer.NotAfter.Sub(issuer.NotBefore)) / 20))
}

// reissue makes the next issuer and stores it, and returns what the store holds then.
// Leaves of the former one hold on: it is in their chains, and is as good as before.
func (k *Keeper) reissue(ctx context.Context, files Files, s signer) (Files, error) {
	opts := k.ca.opts
	opts.IssuerKey = files.issuerKey(opts)
	issuer, err := generateIssuer(opts, s.life(k.ca.opts), s.root, s.key)
	if err == nil {
		err = k.store.Replace(ctx, files, issuer)
	}
	if errors.Is(err, ErrChanged) || errors.Is(err, ErrReadOnly) {
		return nil, err
	}
	if err != nil {
		err = fmt.Errorf("renew the issuer: %w", err)
		if err.Error() != k.Trouble().Problem {
			k.happened(Event{Reason: IssuerRenewalFailed, Warning: true, Message: err.Error()})
		}
		return nil, err
	}
	next := maps.Clone(files)
	maps.Copy(next, issuer)
	certs, _ := certificatesOf(issuer[IssuerFile])
	k.happened(Event{Reason: IssuerRenewed, Message: "the next issuer is stored: " + describe(certs[0])})
	return next, nil
}

// revive renews an issuer that has expired while nobody ran, and reports whether the
// store holds another one now. Nodes trust its root, so they need not be asked.
func (k *Keeper) revive(ctx context.Context) bool {
	files, err := k.store.Read(ctx)
	if err != nil {
		return false
	}
	if issuer := IssuerOf(files); k.ca.opts.Upstream != nil && files.ofUpstream() && !time.Now().Before(issuer.NotAfter) {
		_, err := k.reissueUpstream(ctx, files)
		return err == nil
	}
	s, state := files.signer(k.ca.opts)
	if state != RenewalAutomatic || time.Now().Before(s.issuer.NotAfter) {
		return false
	}
	_, err = k.reissue(ctx, files, s)
	return err == nil || errors.Is(err, ErrChanged)
}

// fingerprint tells one content from another, but for the Record and how far a re-key is.
func fingerprint(files Files) string {
	all := sha256.New()
	for _, name := range files.names() {
		if name != BundleFile && name != RekeyFile {
			fmt.Fprintf(all, "%s %d\n%s", name, len(files[name]), files[name])
		}
	}
	return fmt.Sprintf("%x", all.Sum(nil))
}
