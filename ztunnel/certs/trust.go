// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	// maxHeard bounds the roots that only answers or the root file have named: a CA
	// that names others each time must not have us hold them all.
	maxHeard = 16
	// maxDropped bounds the roots that are remembered as dropped.
	maxDropped = 64
	// heardFor is for how many lifetimes of a leaf a root that only answers have named
	// is kept after the last that did. By then nothing is left that hangs on it.
	heardFor = 3
	// heardAtLeast is the least that this is.
	heardAtLeast = 10 * time.Minute
)

// sum names a root.
type sum = [sha256.Size]byte

// Bundle is what a CA's stream says: the roots that vouch for peers, all of them.
type Bundle struct {
	Generation uint64 // a greater one is younger; 0: no stream has said anything yet
	Hash       sum    // identity.BundleHash of the roots, those that Go cannot read included
	Roots      []*x509.Certificate
	Tainted    []sum     // identity.KeyHash of authorities: what they signed is renewed at once
	Foreign    []Foreign // other trust domains whose workloads may be peers; of others none may
	Listed     uint64    // number of the list that Foreign is, greater with each change; 0: it has none
	Sole       bool      // nobody else says bundles: none is behind, so Foreign counts as it is
}

// trust is what this node knows of the roots of its trust domain. What vouches for
// peers is all of it together, so that a root is dropped only by whoever may:
//
//	said     the latest bundle of the CA's stream; a later one takes its place
//	heard    named by an answer of the CA, or the root file, and in no bundle yet: goes
//	         with a later bundle that does not name it, or when no answer names it
//	         for some lifetimes of a leaf; if only the file named it, with any bundle
//	dropped  was in a bundle and is not in a later one: no answer brings it back, since
//	         a replica that has not heard of the change may give it
type trust struct {
	said    Bundle
	heard   []heard // oldest first
	dropped []sum   // oldest first
}

type heard struct {
	root   *x509.Certificate
	at     time.Time // last
	byFile bool      // only the root file has named it
}

func (t *trust) clone() *trust {
	return &trust{said: t.said, heard: slices.Clone(t.heard), dropped: t.dropped}
}

// roots are all that vouch for peers.
func (t *trust) roots() []*x509.Certificate {
	roots := slices.Clone(t.said.Roots)
	for _, h := range t.heard {
		roots = append(roots, h.root)
	}
	return roots
}

// hear takes the roots of an answer. The only roots that go are those that no answer has
// named for long; life is how long a leaf lives, 0 while nobody knows: then none goes. It reports what is wrong with the answer,
// which is no reason not to use the rest.
func (t *trust) hear(roots []*x509.Certificate, now time.Time, life time.Duration) error {
	return t.hearFrom(roots, false, now, life)
}

// hearFile takes the roots of the root file.
func (t *trust) hearFile(roots []*x509.Certificate, now time.Time, life time.Duration) error {
	return t.hearFrom(roots, true, now, life)
}

func (t *trust) hearFrom(roots []*x509.Certificate, byFile bool, now time.Time, life time.Duration) error {
	var problems []error
	for _, root := range roots {
		named := sha256.Sum256(root.Raw)
		at := slices.IndexFunc(t.heard, func(h heard) bool { return h.root.Equal(root) })
		switch {
		case at >= 0:
			t.heard[at].at = now
			t.heard[at].byFile = t.heard[at].byFile && byFile
		case has(t.said.Roots, named):
		case slices.Contains(t.dropped, named):
			problems = append(problems, fmt.Errorf("the CA answers with the root %q, which its bundle of generation %d has dropped", root.Subject, t.said.Generation))
		case len(t.heard) >= maxHeard:
			problems = append(problems, fmt.Errorf("the CA answers with ever more roots: %q is one more than %d that no bundle has named", root.Subject, maxHeard))
		default:
			t.heard = append(t.heard, heard{root, now, byFile})
		}
	}
	if life > 0 {
		keep := max(heardFor*life, heardAtLeast)
		t.heard = slices.DeleteFunc(t.heard, func(h heard) bool { return now.Sub(h.at) > keep })
	}
	return errors.Join(problems...)
}

// errOldBundle says that a bundle was not taken, because a younger one was.
var errOldBundle = errors.New("the CA's bundle is older than the one in force")

// say takes a bundle of the stream. One of a greater generation takes the place of all
// that was said and heard. One of the same generation confirms it, and what only the root
// file has named goes; or, if it is another set, adds to it: then two replicas do not agree, and neither is known to be younger.
func (t *trust) say(b Bundle, now time.Time, life time.Duration) error {
	if err := b.check(); err != nil {
		return err
	}
	switch {
	case b.Generation < t.said.Generation:
		return fmt.Errorf("%w: generation %d, and %d is in force", errOldBundle, b.Generation, t.said.Generation)
	case b.Generation > t.said.Generation:
		for _, old := range t.said.Roots {
			if named := sha256.Sum256(old.Raw); !has(b.Roots, named) {
				t.dropped = append(t.dropped, named)
			}
		}
		t.dropped = slices.DeleteFunc(t.dropped, func(named sum) bool { return has(b.Roots, named) })
		t.dropped = t.dropped[max(0, len(t.dropped)-maxDropped):]
		t.said, t.heard = b, nil
	case b.Hash != t.said.Hash:
		if err := t.hear(b.Roots, now, life); err != nil {
			return err
		}
		return fmt.Errorf("two replicas of the CA have different bundles of generation %d: the roots of both are trusted", b.Generation)
	default:
		t.heard = slices.DeleteFunc(t.heard, func(h heard) bool { return h.byFile })
	}
	return nil
}

func (b Bundle) check() error {
	switch {
	case b.Generation == 0:
		return errors.New("the bundle has no generation")
	case len(b.Roots) == 0:
		return errors.New("the bundle is empty")
	case len(b.Roots) > identityv1.MaxRoots:
		return fmt.Errorf("the bundle has %d roots, the limit is %d", len(b.Roots), identityv1.MaxRoots)
	}
	return nil
}

func has(roots []*x509.Certificate, named sum) bool {
	return slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return sha256.Sum256(root.Raw) == named })
}

// hash names all roots that vouch for peers.
func (t *trust) hash() sum { return identity.BundleHash(t.roots()) }
