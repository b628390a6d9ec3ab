// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
)

const (
	// denyStreams is how many replicas of the CA a node hears the deny set from at a time:
	// one that falls silent is noticed after 40 s, and a denial must not wait for that.
	denyStreams = 2
	// maxLifted bounds the entries that are remembered as lifted.
	maxLifted = 1024
	// behindFor is for how long a set that is not later does not bring back what was lifted: a
	// replica that is behind hears of the change by then. After that a denial counts: numbers
	// may have begun anew.
	behindFor = 10 * time.Minute
	// maxDenied bounds what sets of several numberings may add up to.
	maxDenied = 2 * deny.MaxEntries
)

// DenySet is what a CA's stream says: whom it denies, all of them.
type DenySet struct {
	Generation uint64 // a greater one is younger
	Entries    []deny.Entry
	Unread     string // why some entry is not among them that a newer CA knows; empty: all are
}

// denials is what this node knows of its CA's deny set. Store.mu guards all but set, which
// has a lock of its own. An entry is
//
//	in force  by the latest set of a stream: a later one takes the place of all of it
//	lifted    in a set, and not in a later one: for behindFor a set that is not later does not
//	          bring it back, since the replica that sends it may not have heard of the change
//
// Whatever else a set has that is not later is added, and nothing goes. Numbers begin anew
// when the API server is restored from a backup: what is denied after that must count.
type denials struct {
	set    *deny.Set
	lifted []lifted // oldest first

	open    [denyStreams]bool // the stream is open, and a set came on it
	heard   time.Time         // until when one of them was; by the monotonic clock
	since   time.Time         // when what is in force was taken
	problem string            // of a stream, as it was last
	none    bool              // the CA has no deny set
}

// lifted is an entry that is in force no more.
type lifted struct {
	deny.Entry
	at time.Time // when; by the monotonic clock
}

// take puts a set of a stream in force, and says what came and what went.
func (d *denials) take(next DenySet) (added, removed []deny.Entry) {
	generation, entries, _ := d.set.Entries()
	if next.Generation <= generation {
		return d.add(generation, entries, next.Entries), nil
	}
	added, removed = d.set.Copy(next.Generation, next.Entries)
	d.lifted = slices.DeleteFunc(d.lifted, func(l lifted) bool { return slices.Contains(added, l.Entry) })
	d.lift(removed)
	return added, removed
}

// lift remembers what was lifted now.
func (d *denials) lift(removed []deny.Entry) {
	for _, e := range removed {
		d.lifted = append(d.lifted, lifted{e, time.Now()})
	}
	d.lifted = d.lifted[max(0, len(d.lifted)-maxLifted):]
}

// add has in force what a set that is not later has besides.
func (d *denials) add(generation uint64, entries, others []deny.Entry) (added []deny.Entry) {
	known := make(map[deny.Entry]bool, len(entries)+len(d.lifted))
	for _, e := range entries {
		known[e] = true
	}
	for _, l := range d.lifted {
		if time.Since(l.at) < behindFor {
			known[l.Entry] = true
		}
	}
	for _, e := range others {
		if !known[e] && len(entries)+len(added) < maxDenied {
			added = append(added, e)
		}
	}
	if len(added) > 0 {
		d.lifted = slices.DeleteFunc(d.lifted, func(l lifted) bool { return slices.Contains(added, l.Entry) })
		d.set.Copy(generation, slices.Concat(entries, added))
	}
	return added
}

// hears reports whether a stream is open.
func (d *denials) hears() bool { return slices.Contains(d.open[:], true) }

// age is for how long no stream was open.
func (d *denials) age(now time.Time) time.Duration {
	if d.hears() {
		return 0
	}
	return now.Sub(d.heard)
}

// takeDenySet puts a set in force that came on one of the streams. When it returns, no
// tunnel is left that the set denies.
func (s *Store) takeDenySet(stream int, next DenySet) {
	s.denying.Lock() // in the sequence of the sets, each wholly
	defer s.denying.Unlock()
	s.mu.Lock()
	d, now := &s.denials, time.Now()
	before, _, _ := d.set.Entries()
	added, removed := d.take(next)
	after, entries, _ := d.set.Entries()
	d.open[stream], d.problem, d.none = true, next.Unread, false
	changed := len(added)+len(removed) > 0
	if changed || after != before {
		d.since = now
	}
	s.renewDenied(now)
	s.mu.Unlock()
	if next.Unread != "" {
		s.cfg.Log.Error("the CA denies something that this ztunnel does not know", logGeneration, next.Generation, logError, next.Unread)
	}
	if !changed && after == before {
		return
	}
	s.cfg.Log.Info("deny set taken", logGeneration, next.Generation, logEntries, len(entries), logAdded, len(added), logRemoved, len(removed))
	if next.Generation < after {
		s.cfg.Log.Warn("the CA's deny set is older than the one in force, and denies more: was the API server restored? Nothing of the later one ends by it",
			logGeneration, next.Generation, logLater, after)
	}
	if changed {
		s.cfg.OnDeny()
		s.poke()
	}
	s.saveDenials()
}

// renewDenied has certificates be replaced that are denied by themselves, not by the
// identity or the node that they are for; s.mu is held.
func (s *Store) renewDenied(now time.Time) {
	if s.denials.set.Empty() {
		return
	}
	for _, e := range s.entries {
		if e.current == nil || s.deniedID(e.id) != nil || s.deniedOwn(e.current) == nil {
			continue
		}
		if soon := e.afterChange(now); soon.Before(e.due) {
			e.due = soon
		}
	}
}

// deniedID is why no pod of this node may prove to be id.
func (s *Store) deniedID(id spiffeid.ID) error {
	return s.denied("the own identity", deny.Chain{{ID: id.String(), Node: s.cfg.Node}})
}

// deniedOwn is why a certificate of this node may not be shown.
func (s *Store) deniedOwn(own *svid) error {
	if s.denials.set.Empty() {
		return nil
	}
	leaf := own.shown
	leaf.Node = s.cfg.Node
	chain := append(deny.Chain{leaf}, deny.IssuersOf(own.above)...)
	if len(own.above) > 0 {
		root := own.above[len(own.above)-1].AuthorityKeyId
		chain = append(chain, deny.Subject{Issuer: hex.EncodeToString(root)})
	}
	return s.denied("the own certificate", chain)
}

// proved is what the deny set looks at of certificates that proved a peer once, when no root of
// today vouches for them: all that was presented, and the root by the name that the last of
// them has for it.
func proved(certs []*x509.Certificate) *proof {
	p := &proof{certs: certs}
	if id, err := workloadOf(certs[0]); err == nil { // else they never proved anybody
		p.id = id
	}
	root := deny.Subject{Issuer: hex.EncodeToString(certs[len(certs)-1].AuthorityKeyId)}
	p.chains = []deny.Chain{append(deny.ChainOf(certs, p.id.String()), root)}
	return p
}

// deniedPeer is why a peer that has proved itself is refused. The zero remote is not known.
func (s *Store) deniedPeer(peer *proof, remote netip.AddrPort) error {
	if s.denials.set.Empty() {
		return nil
	}
	if remote.IsValid() {
		if err := s.denied("the node of the peer "+peer.id.String(), deny.Chain{{Node: s.cfg.NodeAt(remote.Addr())}}); err != nil {
			return err
		}
	}
	return s.denied("the peer "+peer.id.String(), peer.chains...)
}

// denied asks the set of now. A clock that is ahead by Config.ClockSkew ends no denial.
func (s *Store) denied(who string, chains ...deny.Chain) error {
	entry, is := s.denials.set.MatchChains(chains, time.Now().Add(-s.cfg.ClockSkew))
	if !is {
		return nil
	}
	return &deny.Error{Who: who, Entry: entry}
}

// Denying is how this node knows whom the CA denies.
type Denying struct {
	Generation uint64    `json:"generation"` // of the latest set that a stream of the CA said; 0: none yet
	Entries    int       `json:"entries"`    // in force, those that have ended included
	Connected  int       `json:"connected"`  // streams on which a set came
	Since      time.Time `json:"since,omitzero"`
	AgeSeconds float64   `json:"ageSeconds"`        // for how long no stream was open; 0: one is
	None       bool      `json:"none,omitempty"`    // the CA has no deny set
	Problem    string    `json:"problem,omitempty"` // of a stream, as it was last
}

// Denying is what is known now.
func (s *Store) Denying() Denying {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.denials
	generation, entries, _ := d.set.Entries()
	out := Denying{Generation: generation, Entries: len(entries), Since: d.since, AgeSeconds: d.age(time.Now()).Seconds(), None: d.none, Problem: d.problem}
	for _, open := range d.open {
		if open {
			out.Connected++
		}
	}
	return out
}
