// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var ceremonial = Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}

func TestANextIssuerIsOfTheSameRootAndTaken(t *testing.T) {
	files, err := Make(ceremonial)
	if err != nil {
		t.Fatal(err)
	}
	rootKey := keyOf(files[RootKeyFile])
	delete(files, RootKeyFile) // it is kept elsewhere
	c, err := New(ceremonial)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Take(files); err != nil {
		t.Fatal(err)
	}
	before := c.Issuer()
	next, err := NextIssuer(files, rootKey, Options{IssuerTTL: 48 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := next[RootFile]; there || len(next) != 2 {
		t.Errorf("more than the issuer: %v", next.names())
	}
	maps.Copy(files, next)
	if changed, err := c.Take(files); err != nil || !changed || c.Issuer().Equal(before) {
		t.Errorf("taken: %v, %v", changed, err)
	}
	if life := time.Until(c.Issuer().NotAfter); life > 48*time.Hour || life < 47*time.Hour {
		t.Errorf("it lives %v", life)
	}
}

func TestANextIssuerIsRefused(t *testing.T) {
	files, err := Make(ceremonial)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Make(ceremonial)
	if err != nil {
		t.Fatal(err)
	}
	key := keyOf(files[RootKeyFile])
	if _, err := NextIssuer(files, keyOf(other[RootKeyFile]), Options{}); err == nil || !strings.Contains(err.Error(), "that of no root in root.pem") {
		t.Errorf("by another root's key: %v", err)
	}
	if _, err := NextIssuer(Files{"ca.crt": files[RootFile], "tls.crt": files[IssuerFile], "tls.key": files[IssuerKeyFile]}, key, Options{}); err == nil || !strings.Contains(err.Error(), "certmanager") {
		t.Errorf("of an operator's layout: %v", err)
	}
	short := ceremonial
	short.RootTTL = MinTTL / 2
	if files, err = Make(short); err != nil {
		t.Fatal(err)
	}
	if _, err := NextIssuer(files, keyOf(files[RootKeyFile]), Options{}); !errors.Is(err, ErrExpired) {
		t.Errorf("of a root that ends: %v", err)
	}
	if _, err := Make(Options{}); err == nil {
		t.Error("a CA of no trust domain was made")
	}
}
