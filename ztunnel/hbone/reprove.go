// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unique"
)

// grounds is what a tunnel's right to live rests on: the certificates of its own
// handshake, or those of younger tunnels between the same two ends, in which both have
// proved themselves again. Each says until when it holds by the roots that are trusted
// when it is asked; nil: for ever. conn.mu guards it.
//
// One younger tunnel is not enough: roots may change from A to A and B, and back to A.
// Then the youngest tunnel rests on B, and the one before it on A.
//
// A denial of the own certificates counts whatever younger tunnels prove: who is denied by
// a key or a serial number may be whoever made the older tunnel, and not the younger.
type grounds struct {
	own     asked
	denied  func() error // why the tunnel may not go on; nil: nobody denies it
	younger []*ground    // oldest first
}

type ground struct{ until asked }

// asked is until when the certificates of a handshake hold, by the roots that are trusted
// then but for one: noRoot: all of them count.
type asked func(but [sha256.Size]byte) time.Time

var noRoot [sha256.Size]byte

// maxYounger bounds the younger tunnels that one tunnel remembers.
const maxYounger = 3

// add takes another younger tunnel. The slice is replaced, since reprove reads it.
func (g *grounds) add(until asked) {
	kept := g.younger[max(0, len(g.younger)+1-maxYounger):]
	g.younger = append(slices.Clone(kept), &ground{until})
}

// drop forgets younger tunnels.
func (g *grounds) drop(gone []*ground) {
	var kept []*ground
	for _, y := range g.younger {
		if !slices.Contains(gone, y) {
			kept = append(kept, y)
		}
	}
	g.younger = kept
}

// asksAgain keeps of a handshake what it takes to ask about it again.
func asksAgain(cred Credential, state tls.ConnectionState) asked {
	if cred.Until == nil {
		return nil
	}
	until, without, chain := cred.Until, cred.Without, chainOf(state)
	return func(but [sha256.Size]byte) time.Time {
		certs, err := chain.parse()
		if err != nil {
			return longAgo
		}
		again := tls.ConnectionState{PeerCertificates: certs}
		if but == noRoot || without == nil {
			return until(again)
		}
		return without(again, but)
	}
}

// deniedAgain keeps of a handshake what it takes to ask again whether an end is denied.
func deniedAgain(cred Credential, state tls.ConnectionState, remote netip.AddrPort) func() error {
	denied, chain := cred.Denied, chainOf(state)
	return func() error {
		certs, err := chain.parse()
		if err != nil {
			return err
		}
		return denied(tls.ConnectionState{PeerCertificates: certs}, remote)
	}
}

// longAgo ends a tunnel at once: the zero time would say "never".
var longAgo = time.Unix(1, 0)

// chain is certificates as they came, which take a third of what they take parsed. All
// tunnels of a peer share them, and all peers the authorities.
type chain []unique.Handle[string]

func chainOf(state tls.ConnectionState) chain {
	kept := make(chain, len(state.PeerCertificates))
	for i, cert := range state.PeerCertificates {
		kept[i] = unique.Make(string(cert.Raw))
	}
	return kept
}

func (c chain) parse() ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, len(c))
	for i, der := range c {
		var err error
		if certs[i], err = x509.ParseCertificate([]byte(der.Value())); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

// Reprove asks all tunnels whether their certificates still hold and nobody denies an
// end, for instance because the roots or the deny set have changed. One that does not hold
// ends with ErrDenied; the others are left as they are, but for the time at which they end.
func (p *Pool) Reprove() {
	p.mu.Lock()
	p.provings++
	p.mu.Unlock()
	for _, c := range p.all() {
		c.reprove()
	}
}

// Reprove is Pool.Reprove for the tunnels that arrived.
func (l *Listener) Reprove() {
	l.mu.Lock()
	l.provings++
	l.mu.Unlock()
	for _, c := range l.all() {
		c.reprove()
	}
}

var errUnproven = fmt.Errorf("%w: no root that is trusted vouches for the certificates of the tunnel any more", ErrDenied)

// reprove ends a tunnel that is denied, or whose certificates do not hold any more.
func (c *conn) reprove() {
	c.mu.Lock()
	own, denied, younger := c.grounds.own, c.grounds.denied, c.grounds.younger
	c.mu.Unlock()
	if denied != nil {
		if err := denied(); err != nil { // not under mu either
			c.abort(fmt.Errorf("%w: %w", ErrDenied, err))
			return
		}
	}
	if own == nil {
		return
	}
	until := own(noRoot) // not under mu: it may verify a chain
	holds := time.Now().Before(until)
	latest := until
	var gone []*ground
	for _, y := range younger {
		other := y.until(noRoot)
		if !time.Now().Before(other) {
			gone = append(gone, y)
		}
		if other.After(latest) {
			latest = other
		}
	}
	if !time.Now().Before(latest) {
		c.abort(errUnproven)
		return
	}
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil {
		return
	}
	c.until = until
	c.grounds.drop(gone)
	if !latest.Equal(c.deadline) {
		c.setDeadline(latest)
	}
	if !holds && !c.retired {
		c.retireLocked() // open streams live on by the younger tunnel; new ones use that
	}
}

// RestOn is how many tunnels would end if a root were trusted no more, which is named by the
// SHA-256 of its key.
func (p *Pool) RestOn(root [sha256.Size]byte) int { return restOn(p.all(), root) }

// RestOn is Pool.RestOn for the tunnels that arrived.
func (l *Listener) RestOn(root [sha256.Size]byte) int { return restOn(l.all(), root) }

func restOn(all []*conn, root [sha256.Size]byte) (n int) {
	for _, c := range all {
		if c.restsOn(root) {
			n++
		}
	}
	return n
}

func (c *conn) restsOn(root [sha256.Size]byte) bool {
	c.mu.Lock()
	own, younger, over := c.grounds.own, c.grounds.younger, c.err != nil
	c.mu.Unlock()
	if own == nil || over {
		return false
	}
	latest := own(root) // not under mu: it may verify a chain
	for _, y := range younger {
		if until := y.until(root); until.After(latest) {
			latest = until
		}
	}
	return !time.Now().Before(latest)
}

// proven is when the tunnel's own certificates end by the roots that were trusted when it
// was last asked, and how to ask that again.
func (c *conn) proven() (until time.Time, again asked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.until, c.grounds.own
}

// holdsUntil is proven by the roots that are trusted now.
func (c *conn) holdsUntil() (until time.Time, again asked) {
	if until, again = c.proven(); again != nil {
		until = again(noRoot)
	}
	return until, again
}

// since reports whether tunnels were asked again after a count of provings.
func (p *Pool) since(provings uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.provings != provings
}

func (l *Listener) provingsNow() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.provings
}

func (l *Listener) since(provings uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.provings != provings
}
