// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

// A004-11, A002-2: the form of an ID.
func TestServiceAccountAndSPIFFEIDAreTheSameThing(t *testing.T) {
	for _, sa := range []ServiceAccount{
		{"default", "default"},
		{"shop", "web.v1-2"},
		{strings.Repeat("a", 63), strings.Repeat("b", 253)},
		{"0", "0"},
	} {
		id, err := sa.ID(td)
		if err != nil {
			t.Fatalf("%v: %v", sa, err)
		}
		if want := "spiffe://cluster.local/ns/" + sa.Namespace + "/sa/" + sa.Name; id.String() != want {
			t.Errorf("ID() = %v, want %v", id, want)
		}
		if got, err := Parse(id); err != nil || got != sa {
			t.Errorf("Parse(%v) = %v, %v, want %v", id, got, err, sa)
		}
		if got, err := ParseServiceAccount(sa.String()); err != nil || got != sa {
			t.Errorf("ParseServiceAccount(%v) = %v, %v", sa, got, err)
		}
	}
}

func TestNamesThatKubernetesRefusesHaveNoID(t *testing.T) {
	for _, sa := range []ServiceAccount{
		{"", "web"}, {"shop", ""}, {"Shop", "web"}, {"shop", "Web"}, {"-shop", "web"}, {"shop-", "web"},
		{"sh.op", "web"}, {"shop", ".web"}, {"shop", "web."}, {"shop", "we..b"}, {"shop", "we_b"}, {"shop", "a.-b"},
		{strings.Repeat("a", 64), "web"}, {"shop", strings.Repeat("b", 254)}, {"shop", "a/b"}, {"..", "web"},
	} {
		if id, err := sa.ID(td); err == nil {
			t.Errorf("%q has the ID %v", sa, id)
		}
	}
	if _, err := (ServiceAccount{"shop", "web"}).ID(spiffeid.TrustDomain{}); err == nil {
		t.Error("an ID without a trust domain")
	}
}

// GO-2026-5242, CVE-2023-37918: names that were not normalised passed for others.
func TestOnlyTheExactPathIsAnIdentity(t *testing.T) {
	for _, s := range []string{
		"spiffe://cluster.local",
		"spiffe://cluster.local/ns",
		"spiffe://cluster.local/ns/shop",
		"spiffe://cluster.local/ns/shop/sa",
		"spiffe://cluster.local/sa/web/ns/shop",
		"spiffe://cluster.local/ns/shop/sa/web/x",
		"spiffe://cluster.local/x/ns/shop/sa/web",
		"spiffe://cluster.local/NS/shop/sa/web",
		"spiffe://cluster.local/ns/shop/SA/web",
		"spiffe://cluster.local/ns/Shop/sa/web",
		"spiffe://cluster.local/ns/shop/sa/we_b",
		"spiffe://cluster.local/ns/sh.op/sa/web",
	} {
		if sa, err := Parse(spiffeid.RequireFromString(s)); err == nil {
			t.Errorf("Parse(%v) = %v", s, sa)
		}
	}
	if sa, err := Parse(spiffeid.ID{}); err == nil {
		t.Errorf("the zero ID is %v", sa)
	}
}

// Only [a-z0-9-] may stand in a namespace, and those plus the dot in a name:
// everything a path, a pattern or a log could read differently is outside.
func TestEveryByteThatIsNotAllowedIsRefused(t *testing.T) {
	for b := range 256 {
		alnum := 'a' <= b && b <= 'z' || '0' <= b && b <= '9'
		for _, test := range []struct {
			sa   ServiceAccount
			want bool
		}{
			{ServiceAccount{"a" + string([]byte{byte(b)}) + "a", "web"}, alnum || b == '-'},
			{ServiceAccount{"shop", "a" + string([]byte{byte(b)}) + "a"}, alnum || b == '-' || b == '.'},
		} {
			id, err := test.sa.ID(td)
			if got := err == nil; got != test.want {
				t.Errorf("byte %#02x: ID(%q) = %v, %v", b, test.sa, id, err)
			}
			parsed, err := spiffeid.FromString("spiffe://cluster.local/ns/" + test.sa.Namespace + "/sa/" + test.sa.Name)
			if err != nil {
				continue // go-spiffe refuses it first
			}
			if _, err := Parse(parsed); (err == nil) != test.want {
				t.Errorf("byte %#02x: Parse(%v): %v", b, parsed, err)
			}
		}
	}
}

func TestServiceAccountTextIsNamespaceSlashName(t *testing.T) {
	for _, s := range []string{"", "/", "web", "shop/", "/web", "a/b/c", "Shop/web"} {
		if sa, err := ParseServiceAccount(s); err == nil {
			t.Errorf("ParseServiceAccount(%q) = %v", s, sa)
		}
	}
}

func TestCertificateWithOneURISANHasAnIdentity(t *testing.T) {
	cert := func(uris ...string) *x509.Certificate {
		c := &x509.Certificate{}
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, parsed)
		}
		return c
	}
	const web = "spiffe://cluster.local/ns/shop/sa/web"
	if id, err := FromCertificate(cert(web)); err != nil || id.String() != web {
		t.Errorf("FromCertificate = %v, %v", id, err)
	}
	for _, uris := range [][]string{
		{}, {web, web}, {web, "https://example.org"}, {"https://example.org"}, {"spiffe://"}, {"spiffe://CLUSTER.local/x"},
		{web + "?a=b"}, {web + "#a"}, {"spiffe://user@cluster.local/ns/shop/sa/web"}, {"spiffe://cluster.local:80/ns/shop/sa/web"},
	} {
		if id, err := FromCertificate(cert(uris...)); err == nil {
			t.Errorf("FromCertificate(%v) = %v", uris, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/web.v1", "spiffe://a/ns/b/sa/c/",
		"spiffe://cluster.local", "spiffe:///ns/a/sa/b", "spiffe://cluster.local/ns/../sa/b", "spiffe://cluster.local/ns/a/sa/%61", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return
		}
		sa, err := Parse(id)
		if err != nil {
			return
		}
		again, err := sa.ID(id.TrustDomain())
		if err != nil || again != id {
			t.Fatalf("Parse(%v) = %v, whose ID is %v, %v", id, sa, again, err)
		}
	})
}
