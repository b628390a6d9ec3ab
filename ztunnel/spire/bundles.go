// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// Follow hands take the bundle of the trust domain whenever the agent tells another. The
// agent numbers none, and there is one agent: what it tells is younger than what is known.
func (c *Client) Follow(ctx context.Context, known certs.Bundle, take func(certs.Bundle) error, _ func() []certs.Rest) error {
	stream, err := c.agent.SubscribeToX509Bundles(ctx, &delegatedv1.SubscribeToX509BundlesRequest{})
	if err != nil {
		return c.withoutBundle(problem(c.cfg.AdminSocket, err))
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return c.withoutBundle(problem(c.cfg.AdminSocket, err))
		}
		next, err := c.bundleOf(answer, known)
		if err != nil {
			return c.withoutBundle(err)
		}
		if err := take(next); err != nil {
			return c.withoutBundle(err)
		}
		known = next
		c.haveBundle()
	}
}

// bundleOf gives roots that are as known the same generation, and others the next.
func (c *Client) bundleOf(answer *delegatedv1.SubscribeToX509BundlesResponse, known certs.Bundle) (certs.Bundle, error) {
	all := answer.GetCaCertificates()
	der, there := all[c.cfg.TrustDomain.IDString()]
	if !there {
		return certs.Bundle{}, because(certs.TrustDomain, "SPIRE's agent has the trust bundles of %s, and this node is of %q",
			strings.Join(slices.Sorted(maps.Keys(all)), ", "), c.cfg.TrustDomain)
	}
	next, err := parseBundle(der)
	if err != nil {
		return certs.Bundle{}, because(certs.Failed, "the trust bundle of SPIRE's agent: %v", err)
	}
	next.Foreign, next.Sole = c.foreign(all), true
	next.Generation = max(1, known.Generation)
	if known.Generation != 0 && next.Hash != known.Hash {
		next.Generation++
	}
	return next, nil
}

// foreign are the bundles of other trust domains, in the order of their names. A domain stays
// as it is known whose bundle cannot be read.
func (c *Client) foreign(all map[string][]byte) (foreign []certs.Foreign) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil || td == c.cfg.TrustDomain {
			continue
		}
		b, err := parseBundle(all[name])
		if err != nil {
			foreign = append(foreign, certs.Foreign{TrustDomain: td, Problem: err.Error()})
			continue
		}
		foreign = append(foreign, certs.NewForeign(td, b.Roots))
	}
	return foreign
}

// parseBundle reads certificates that follow one another. A root that Go does not
// understand must not cost us those that it does, but it counts for the hash.
func parseBundle(der []byte) (b certs.Bundle, err error) {
	var all []*x509.Certificate
	var problem error
	for len(der) > 0 {
		var one asn1.RawValue
		if der, err = asn1.Unmarshal(der, &one); err != nil {
			return b, fmt.Errorf("after %d certificates: %v", len(all), err)
		}
		root, err := x509.ParseCertificate(one.FullBytes)
		if err != nil {
			problem = err
			root = &x509.Certificate{Raw: one.FullBytes}
		} else {
			b.Roots = append(b.Roots, root)
		}
		all = append(all, root)
	}
	b.Hash = identity.BundleHash(all)
	if len(b.Roots) == 0 && problem == nil {
		problem = errors.New("it is empty")
	}
	if len(b.Roots) == 0 {
		return b, problem
	}
	return b, nil
}

// haveBundle notes that the bundle is in force. What was taken once stays, whatever
// becomes of the stream.
func (c *Client) haveBundle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bundle != nil {
		c.bundle = nil
		c.tellLocked()
	}
}

// withoutBundle returns err, which is why there is no bundle if none was taken yet.
func (c *Client) withoutBundle(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bundle != nil {
		c.bundle = err
		c.tellLocked()
	}
	return err
}
