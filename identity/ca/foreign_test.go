// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Nodes are sent what is another slice: the same again must not be one.
func TestTheSameForeignBundlesAgainAreNoNews(t *testing.T) {
	var c CA
	say := func(sequence uint64) (told bool) {
		changed := c.Changed()
		c.Federate(Federations{All: []Foreign{{TrustDomain: spiffeid.RequireTrustDomainFromString("other.example"), Sequence: sequence}}})
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	if !say(1) {
		t.Error("the first are no news")
	}
	before := &c.Federated().All[0]
	if say(1) || &c.Federated().All[0] != before {
		t.Error("the same again is told, or is another slice")
	}
	if !say(2) || &c.Federated().All[0] == before {
		t.Error("another number is not told, or is the same slice")
	}
}
