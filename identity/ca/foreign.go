// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"reflect"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Foreign is the trust bundle of another trust domain. It vouches for that domain alone.
type Foreign struct {
	TrustDomain spiffeid.TrustDomain
	Sequence    uint64              // that the domain gave to this set; 0: it gives none
	Roots       []*x509.Certificate // none: they are not known yet
}

// Federations are the other trust domains whose workloads may be peers.
type Federations struct {
	Number uint64 // of the list, greater with each change of it; 0: it has none
	All    []Foreign
}

// Federate says of which other trust domains nodes are told, instead of those that it said
// before. What the CA signs is not changed by it. The same again is no news.
func (c *CA) Federate(next Federations) {
	before := c.Federated()
	if len(next.All) == 0 && len(before.All) == 0 {
		next.All, before.All = nil, nil
	}
	if reflect.DeepEqual(before, next) {
		return
	}
	next.All = slices.Clone(next.All)
	c.foreign.Store(&next)
	c.news.tell()
}

// Federated are those of the last Federate; the caller must not write to them. They are
// another slice only if they are others.
func (c *CA) Federated() Federations {
	if all := c.foreign.Load(); all != nil {
		return *all
	}
	return Federations{}
}
