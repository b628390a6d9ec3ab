// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// check refuses a bundle that is none of the domain, or is older than the one that is known.
// own are the roots of this trust domain.
func check(b *spiffebundle.Bundle, known kept, own []*x509.Certificate) error {
	if err := checkRoots(b.X509Authorities(), b.TrustDomain(), own); err != nil {
		return err
	}
	if len(known.Roots) == 0 {
		return nil
	}
	switch sequence, numbered := b.SequenceNumber(); {
	case known.Numbered && !numbered:
		return fmt.Errorf("the bundle has no number (spiffe_sequence), and the one in force has %d", known.Sequence)
	case sequence < known.Sequence:
		return fmt.Errorf("the bundle has the number %d, and the one in force %d: it is older", sequence, known.Sequence)
	}
	return nil
}

// checkRoots is asked of what an endpoint gives, and again of what was kept: an own root may
// have come since.
func checkRoots(roots []*x509.Certificate, td spiffeid.TrustDomain, own []*x509.Certificate) error {
	switch n := len(roots); {
	case n == 0:
		return errors.New("the bundle has no root: no key of the use x509-svid")
	case n > identityv1.MaxFederatedRoots:
		return fmt.Errorf("the bundle has %d roots, the limit is %d", n, identityv1.MaxFederatedRoots)
	}
	for _, root := range roots {
		if err := checkRoot(root, td, own); err != nil {
			return fmt.Errorf("the root %q: %v", root.Subject, err)
		}
	}
	return nil
}

func checkRoot(root *x509.Certificate, td spiffeid.TrustDomain, own []*x509.Certificate) error {
	switch {
	case !root.BasicConstraintsValid || !root.IsCA:
		return errors.New("it is no authority's certificate")
	case slices.ContainsFunc(own, func(c *x509.Certificate) bool { return identity.KeyHash(c) == identity.KeyHash(root) }):
		return errors.New("its key is that of a root of this trust domain: a root vouches for one domain")
	}
	for _, uri := range root.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		if id, err := spiffeid.FromURI(uri); err != nil || id.TrustDomain() != td {
			return fmt.Errorf("it says that it is of %s, and the bundle is that of %s", uri, td)
		}
	}
	return identity.CheckKey(root) // of whatever it signs, nodes pay for the check
}

// refresh is how long a bundle is good for, as it says.
func refresh(b *spiffebundle.Bundle) time.Duration {
	hint, said := b.RefreshHint()
	if !said || hint == 0 {
		return DefaultRefresh
	}
	return min(max(hint, MinRefresh), MaxRefresh)
}
