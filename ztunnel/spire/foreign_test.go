// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"bytes"
	"crypto/elliptic"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// A domain whose bundle cannot be used is named without roots, so that it stays as it was; and
// the bounds are those of what a CA says.
func TestABundleOfAnotherTrustDomainThatCannotBeUsedEndsNothing(t *testing.T) {
	root := certstest.NewCA().Cert.Raw
	costly := certstest.Mint(certstest.Authority("costly"), certstest.NewKey(elliptic.P521()), nil).Cert.Raw
	c := &Client{cfg: Config{TrustDomain: web.TrustDomain()}}
	got, err := c.bundleOf(&delegatedv1.SubscribeToX509BundlesResponse{CaCertificates: map[string][]byte{
		web.TrustDomain().IDString(): root,
		"spiffe://costly.example":    bytes.Join([][]byte{costly, root}, nil),
		"spiffe://good.example":      root,
		"spiffe://many.example":      bytes.Repeat(root, identityv1.MaxFederatedRoots+1),
		"spiffe://torn.example":      root[:len(root)-1],
	}}, certs.Bundle{})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Sole {
		t.Error("the agent is taken for one that may be behind another")
	}
	want := []struct {
		domain string
		roots  int
		says   string
	}{
		{"costly.example", 1, `the root "CN=costly": `},
		{"good.example", 1, ""},
		{"many.example", 0, "it has 33 roots, the limit is 32"},
		{"torn.example", 0, "after 0 certificates: "},
	}
	if len(got.Foreign) != len(want) {
		t.Fatalf("%+v", got.Foreign)
	}
	for i, f := range got.Foreign {
		if w := want[i]; f.TrustDomain.Name() != w.domain || len(f.Roots) != w.roots || (f.Problem == "") != (w.says == "") || !strings.HasPrefix(f.Problem, w.says) {
			t.Errorf("%v: %d roots, %q, want %+v", f.TrustDomain, len(f.Roots), f.Problem, w)
		}
	}
}
