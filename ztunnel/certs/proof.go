// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
)

const (
	maxProofs    = 1024
	maxPresented = 24 << 10 // bytes of a chain that is remembered; leaf, intermediate and issuer have two thousand, of ML-DSA-65 seventeen
)

// proof is a chain that a bundle vouches for.
type proof struct {
	id       spiffeid.ID         // of the workload
	certs    []*x509.Certificate // as presented: while we hold them, crypto/tls need not parse them again
	from, to time.Time           // while none of them begins or ends
	until    time.Time           // when the last chain to a root breaks
	chains   []deny.Chain        // to roots, as the deny set looks at them
}

func (p *proof) holds(now time.Time) bool { return !now.Before(p.from) && now.Before(p.to) }

// presented is what proves a peer, and for which side. The certificates are
// hashed one behind the other: each says in its first bytes how long it is.
type presented struct {
	sum   [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// proofs are the chains that one bundle has vouched for, so that a peer that
// comes again costs one signature check, the one of its handshake. They go with
// the bundle: nothing here is true under another.
type proofs struct {
	mu     sync.Mutex
	proven map[presented]*proof
}

// prove verifies a chain and reads whom its leaf names, unless that has been
// done. Only what has been verified is remembered.
func (b *bundle) prove(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*proof, error) {
	key, small := present(certs, usage)
	if small {
		if p := b.proofs.find(key, now); p != nil {
			return p, nil
		}
	}
	chains, err := verifyChain(certs, b, usage, now)
	if err != nil {
		return nil, err
	}
	id, err := workloadOf(certs[0])
	if err != nil {
		return nil, err
	}
	p := &proof{id: id, certs: certs, until: chainsUntil(chains).Add(b.skew)}
	for _, chain := range chains {
		p.chains = append(p.chains, deny.ChainOf(chain, id.String())) // with the root
	}
	from, to := span(chains)
	p.from, p.to = from.Add(-b.skew), to.Add(b.skew)
	if small {
		b.proofs.add(key, p)
	}
	return p, nil
}

// present also reports whether the chain is worth remembering; of one that is
// not, nothing is computed.
func present(certs []*x509.Certificate, usage x509.ExtKeyUsage) (key presented, small bool) {
	size := 0
	for _, cert := range certs {
		size += len(cert.Raw)
	}
	if size > maxPresented {
		return presented{}, false
	}
	hash := sha256.New()
	for _, cert := range certs {
		hash.Write(cert.Raw)
	}
	key.usage = usage
	hash.Sum(key.sum[:0])
	return key, true
}

// span is when the verification of all chains would end as it did: not before
// the last of their certificates begins, and until the first ends.
func span(chains [][]*x509.Certificate) (from, to time.Time) {
	to = chains[0][0].NotAfter
	for _, chain := range chains {
		for _, cert := range chain {
			if cert.NotBefore.After(from) {
				from = cert.NotBefore
			}
			if cert.NotAfter.Before(to) {
				to = cert.NotAfter
			}
		}
	}
	return from, to
}

func (ps *proofs) find(key presented, now time.Time) *proof {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.proven[key]
	if p != nil && !p.holds(now) {
		delete(ps.proven, key)
		return nil
	}
	return p
}

// add forgets any other proof if there are too many.
func (ps *proofs) add(key presented, p *proof) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.proven == nil {
		ps.proven = make(map[presented]*proof)
	}
	for old := range ps.proven {
		if len(ps.proven) < maxProofs {
			break
		}
		delete(ps.proven, old)
	}
	ps.proven[key] = p
}
