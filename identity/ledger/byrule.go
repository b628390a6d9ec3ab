// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// wentByRule reports whether the files of all chains prove that the line of an anchor was
// removed by rule: a line says so, and a checkpoint by a key that the roots vouch for is of
// that line or a later one. It reads all of them. Without roots, no line needs a checkpoint.
func wentByRule(chains map[string]*chain, roots []*x509.Certificate, c Checkpoint) (bool, error) {
	found := false
	for _, one := range chains {
		p := &proof{chain: one, roots: roots, signers: newSigners(roots)}
		if err := p.read(); err != nil {
			return false, err
		}
		// An older state of the chain itself may be there again.
		if one.replica == c.Replica && p.first != 0 && p.first <= c.Seq && slices.Contains(p.ids, c.Chain) {
			return false, nil
		}
		found = found || slices.ContainsFunc(p.removed, func(r Removed) bool {
			return r.Replica == c.Replica && r.Chain == c.Chain && r.Last >= c.Seq
		})
	}
	return found, nil
}

// proof is what the lines of one chain prove of removed files.
type proof struct {
	chain   *chain
	roots   []*x509.Certificate
	signers *signers

	first   uint64   // Seq
	ids     []string // of the chain
	last    hash     // of the line before
	waiting []Removed
	removed []Removed // that are proved
}

func (p *proof) read() error {
	var heads [2]*Checkpoint
	if p.chain.head != "" {
		in, err := os.Open(p.chain.head)
		if err != nil {
			return err
		}
		heads, _ = readSlots(in) // Verify tells of one that cannot be read
		in.Close()
	}
	for _, f := range p.chain.files {
		if err := p.file(f, heads); err != nil {
			return err
		}
	}
	return nil
}

func (p *proof) file(f file, heads [2]*Checkpoint) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	for all := newLines(in); ; {
		line, err := all.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTorn):
			return nil
		case err != nil:
			return fmt.Errorf("%s: line %d: %w", f.path, all.number, err)
		}
		p.line(line, heads)
	}
}

// line goes on by one line. What waits is proved by a checkpoint only if each line since names
// the one before it.
func (p *proof) line(line []byte, heads [2]*Checkpoint) {
	r, err := decode(line)
	if err != nil || r.Prev != p.last.String() {
		p.waiting = nil
	}
	if p.last = hashOf(line); err != nil {
		return
	}
	if p.first == 0 {
		p.first = r.Seq
	}
	if r.Chain != "" && !slices.Contains(p.ids, r.Chain) {
		p.ids = append(p.ids, r.Chain)
	}
	switch {
	case r.Kind == KindSigner:
		_ = p.signers.learn(r.Certificates) // Verify tells
	case r.Kind == KindRemoved && r.Removed != nil:
		p.waiting = append(p.waiting, *r.Removed)
	case r.Kind == KindCheckpoint && r.Signed != nil && r.Signed.Hash == r.Prev:
		p.proveBy(*r.Signed)
	}
	for _, c := range heads {
		if c != nil && c.Hash == p.last.String() {
			p.proveBy(*c)
		}
	}
	if p.roots == nil {
		p.prove()
	}
}

func (p *proof) proveBy(c Checkpoint) {
	if len(p.waiting) > 0 && c.Replica == p.chain.replica && p.signers.verify(c) == nil {
		p.prove()
	}
}

func (p *proof) prove() { p.removed, p.waiting = append(p.removed, p.waiting...), nil }
