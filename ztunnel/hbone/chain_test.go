// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// A peer's chain is in memory once, however many tunnels lead to it: each handshake has
// read it anew.
func TestTunnelsOfOnePeerShareItsChain(t *testing.T) {
	root := certstest.NewCA()
	shown := root.Leaf(serverID, certstest.Lasting(time.Hour)).Cert
	handshake := func() tls.ConnectionState {
		read, err := x509.ParseCertificate(slices.Clone(shown.Raw))
		if err != nil {
			t.Fatal(err)
		}
		return tls.ConnectionState{PeerCertificates: []*x509.Certificate{read}}
	}
	one, other := chainOf(handshake()), chainOf(handshake())
	if !slices.Equal(one, other) {
		t.Error("each tunnel has a copy")
	}
	certs, err := one.parse()
	if err != nil || len(certs) != 1 || !certs[0].Equal(shown) {
		t.Errorf("%v, %v", certs, err)
	}
}

// What cannot be asked again is not taken for what never ends.
func TestAChainThatCannotBeReadProvesNothing(t *testing.T) {
	never := Credential{Until: func(tls.ConnectionState) time.Time { return time.Time{} }}
	again := asksAgain(never, tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("x")}}})
	if until := again(noRoot); until.IsZero() || until.After(time.Now()) {
		t.Errorf("it holds until %v", until)
	}
}
