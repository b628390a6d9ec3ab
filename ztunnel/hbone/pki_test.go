// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

var (
	clientID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	serverID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
	otherID  = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/other")
)

// authority signs the certificates of one test.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10000 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.root)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf is a certificate for id that lasts for ttl.
func (a *authority) leaf(id spiffeid.ID, ttl time.Duration) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	uri, err := url.Parse(id.String())
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.root, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// credential proves id for ttl and accepts only want, or anyone if that is zero.
func (a *authority) credential(id, want spiffeid.ID, ttl time.Duration) Credential {
	a.t.Helper()
	leaf := a.leaf(id, ttl)
	own, err := x509.ParseCertificate(leaf.Certificate[0])
	if err != nil {
		a.t.Fatal(err)
	}
	return Credential{
		Config: &tls.Config{
			Certificates: []tls.Certificate{leaf}, NextProtos: []string{"h2"},
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
			InsecureSkipVerify: true, SessionTicketsDisabled: true, // VerifyConnection verifies
			DynamicRecordSizingDisabled: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
					Roots: a.pool, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
				})
				if err != nil {
					return err
				}
				got, err := identity.FromCertificate(state.PeerCertificates[0])
				if err == nil && !want.IsZero() && got != want {
					err = fmt.Errorf("peer is %v, want %v", got, want)
				}
				return err
			},
		},
		Until: func(state tls.ConnectionState) time.Time {
			until := own.NotAfter
			if peer := state.PeerCertificates[0].NotAfter; peer.Before(until) {
				until = peer
			}
			return until
		},
	}
}
