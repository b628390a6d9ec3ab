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

// Federate says of which other trust domains nodes are told, instead of those that it said
// before. What the CA signs is not changed by it. The same again is no news.
func (c *CA) Federate(all []Foreign) {
	if before := c.Federated(); len(all) == 0 && len(before) == 0 || reflect.DeepEqual(before, all) {
		return
	}
	all = slices.Clone(all)
	c.foreign.Store(&all)
	c.news.tell()
}

// Federated are those of the last Federate; the caller must not write to them. They are
// another slice only if they are others.
func (c *CA) Federated() []Foreign {
	if all := c.foreign.Load(); all != nil {
		return *all
	}
	return nil
}
