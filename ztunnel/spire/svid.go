// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// What of an answer is looked at.
const (
	maxSVIDs = 256 // an entry for each pod of a ServiceAccount
	maxChain = 8
)

// svid is what the agent gave: a chain, leaf first, and its key as PKCS #8.
type svid struct {
	chain []*x509.Certificate
	key   []byte
}

// issued parses the key anew each time: whoever takes it may overwrite it.
func (s *svid) issued() (certs.Issued, error) {
	key, err := x509.ParsePKCS8PrivateKey(s.key)
	if err != nil {
		return certs.Issued{}, fmt.Errorf("the key that SPIRE's agent gave: %v", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return certs.Issued{}, errors.New("the key that SPIRE's agent gave cannot sign")
	}
	return certs.Issued{Chain: s.chain, Key: signer}, nil
}

func (s *svid) forget() {
	if s != nil {
		clear(s.key)
	}
}

// same reports whether both are one SVID.
func (s *svid) same(other *svid) bool { return other != nil && s.chain[0].Equal(other.chain[0]) }

// parse reads what it can. The answer's keys are moved, not copied.
func parse(answer *delegatedv1.SubscribeToX509SVIDsResponse) (svids []*svid, err error) {
	var problems []error
	given := answer.GetX509Svids()
	if len(given) > maxSVIDs {
		problems = append(problems, fmt.Errorf("%d SVIDs, the limit is %d", len(given), maxSVIDs))
		given = given[:maxSVIDs]
	}
	for _, one := range given {
		chain, err := parseChain(one.GetX509Svid().GetCertChain())
		if err != nil {
			problems = append(problems, err)
			clear(one.GetX509SvidKey())
			continue
		}
		svids = append(svids, &svid{chain: chain, key: one.GetX509SvidKey()})
	}
	return svids, errors.Join(problems...)
}

func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, fmt.Errorf("a chain of %d certificates, want 1 to %d", len(ders), maxChain)
	}
	var chain []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// choose returns one that names id: the one that there is, as long as the agent has it,
// or else the one that lasts longest. An agent has one for each entry, as for each pod.
func choose(svids []*svid, id spiffeid.ID, now *svid) (chosen *svid) {
	for _, s := range svids {
		if named, err := identity.FromCertificate(s.chain[0]); err != nil || named != id {
			continue
		}
		if s.same(now) {
			return s
		}
		if chosen == nil || s.chain[0].NotAfter.After(chosen.chain[0].NotAfter) {
			chosen = s
		}
	}
	return chosen
}
