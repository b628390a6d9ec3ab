// SPDX-License-Identifier: Apache-2.0

// Package certs holds the node's X509-SVIDs: one key and leaf per
// ServiceAccount in use here, fetched when its first pod is enrolled, renewed
// long before they expire, forgotten with the last pod. From them it makes the
// two sides of a tunnel's TLS.
//
//	Hold -> schedule (Run) -> Issuer -> check what came back -> serve
//	                              Server, Client: own key, peer verified, neither denied
package certs

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// ErrNoIdentity is wrapped when there is no SVID to prove oneself with: the CA
// has not given one yet, or nothing on this node holds the identity.
var ErrNoIdentity = errors.New("no SVID")

// ErrExpired is wrapped when there was an SVID, but it expired and the CA has
// not given another.
var ErrExpired = errors.New("SVID has expired")

// ErrCutOff is wrapped when the node has not heard of its CA for Config.MaxAge.
var ErrCutOff = errors.New("cut off from the CA")

// Issuer signs for the node. The CSR is PEM; its key is new each time.
//
// It may have more methods: a checker's (standing.go), a batcher's (wave.go), a
// Follower's (follow.go), a denier's (denystream.go), a streamer's (stream.go).
type Issuer interface {
	Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error)
}

// Issued is what an Issuer gives: leaf and intermediates, and the roots that it
// publishes, which add to those that peers are verified by.
type Issued struct {
	Chain, Roots []*x509.Certificate
	RenewAfter   time.Duration // the issuer's wish, from now on; 0: it has none
	Key          crypto.Signer // that the leaf certifies, if the issuer made it; nil: the CSR's
}

// Config says whose SVIDs a Store holds.
type Config struct {
	TrustDomain spiffeid.TrustDomain // required
	Issuer      Issuer               // required
	Node        string               // name that the CA must know this node by; any
	TTL         time.Duration        // lifetime to ask for; what the CA gives
	Keys        identity.KeyKind     // that are made; identity.P256
	ClockSkew   time.Duration        // how far a clock of the mesh may be off, at most identity.MaxClockSkew; 0
	RootFile    string               // PEM of roots to go by while no stream of the CA names any; none
	BundleFile  string               // keeps the last good bundle over restarts; none
	DenyFile    string               // keeps the deny set over restarts; none
	MaxAge      time.Duration        // for how long no stream of the CA may be open before new tunnels are refused; 0: for ever
	Log         *slog.Logger         // slog.Default()
	OnRotate    func(id spiffeid.ID) // called after id got another SVID, with no lock held; none
	OnTainted   func(id spiffeid.ID) // called in place of OnRotate if the CA had tainted an authority of the SVID before, or after it if the CA does so later; OnRotate
	OnBundle    func()               // called after the trust bundle changed, with no lock held; none
	OnDeny      func()               // called after the deny set changed, or the clock was set; ends what it denies before it returns; none
	Tunnels     func(key sum) int    // how many tunnels nothing but the roots of a key vouches for; not known

	// NodeAt is the node whose pod has an address, as far as anybody knows; "": nobody does.
	// What a denied node's certificates prove elsewhere is proved until the CA renews none.
	NodeAt func(netip.Addr) string // default: nobody knows
	Remedy func(Reason) string     // where an operator sets what is wrong, said after the sentence; nowhere
}

// Validate returns all that is wrong with the Config.
func (c Config) Validate() error {
	var problems []error
	if c.TrustDomain.IsZero() {
		problems = append(problems, errors.New("TrustDomain is required"))
	}
	if c.Issuer == nil {
		problems = append(problems, errors.New("Issuer is required"))
	}
	if c.TTL < 0 {
		problems = append(problems, fmt.Errorf("TTL is %v", c.TTL))
	}
	if c.MaxAge < 0 {
		problems = append(problems, fmt.Errorf("MaxAge is %v", c.MaxAge))
	}
	if c.ClockSkew < 0 || c.ClockSkew > identity.MaxClockSkew {
		problems = append(problems, fmt.Errorf("ClockSkew is %v, want 0 to %v", c.ClockSkew, identity.MaxClockSkew))
	}
	return errors.Join(problems...)
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.OnRotate == nil {
		c.OnRotate = func(spiffeid.ID) {}
	}
	if c.OnTainted == nil {
		c.OnTainted = c.OnRotate
	}
	if c.OnBundle == nil {
		c.OnBundle = func() {}
	}
	if c.OnDeny == nil {
		c.OnDeny = func() {}
	}
	if c.NodeAt == nil {
		c.NodeAt = func(netip.Addr) string { return "" }
	}
	if c.Remedy == nil {
		c.Remedy = func(Reason) string { return "" }
	}
	return c
}

// checkID reports whether id may be held at all.
func (c Config) checkID(id spiffeid.ID) error {
	if !id.MemberOf(c.TrustDomain) {
		return fmt.Errorf("%v is not of the trust domain %v", id, c.TrustDomain)
	}
	_, err := identity.Parse(id)
	return err
}
