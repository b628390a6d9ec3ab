// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

func TestParseNamesWhatIsWrong(t *testing.T) {
	good := "{trustDomain: other.example, url: 'https://ca.other.example:15016', profile: https_spiffe, endpointSPIFFEID: 'spiffe://other.example/culvert/identity', bundleFile: /other.pem}"
	web := "{trustDomain: web.example, url: 'https://web.example/bundle', profile: https_web}"
	if all, err := Parse([]byte("- "+good+"\n- "+web+"\n"), here); err != nil || len(all.Domains) != 2 || all.Domains[1].Profile != HTTPSWeb || all.Number != 0 {
		t.Fatalf("%+v, %v", all, err)
	}
	if all, err := Parse([]byte("number: 7\ndomains:\n- "+good+"\n"), here); err != nil || len(all.Domains) != 1 || all.Number != 7 {
		t.Fatalf("%+v, %v", all, err)
	}
	if all, err := Parse([]byte("{number: 7, domains: []}"), here); err != nil || all.Number != 7 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, row := range []struct{ text, says string }{
		{"{number: 7}", "there is no list"},
		{"{domains: []}", "number: 0 is not within 1"},
		{"{number: 281474976710657, domains: []}", "number: 281474976710657 is not within"},
		{"{number: -1, domains: []}", "nor {number, domains}"},
		{"{number: 7, domain: []}", "unknown field"},
		{"other.example", "not a list"},
		{"", "there is no list: want []"},
		{"# none\nnull\n", "there is no list: want []"},
		{"- {trustDomain: other.example, uri: x}", "unknown field"},
		{"- {url: 'https://x', profile: https_web}", "entry 0: trustDomain"},
		{"- {trustDomain: here.example, url: 'https://x', profile: https_web}", "here.example is that of this mesh"},
		{"- {trustDomain: web.example, url: 'http://x', profile: https_web}", "url"},
		{"- {trustDomain: web.example, url: 'https://u:p@x', profile: https_web}", "url"},
		{"- {trustDomain: web.example, url: 'https://x'}", "profile"},
		{"- {trustDomain: web.example, url: 'https://x', profile: https_web, bundleFile: /x}", "are of the profile https_spiffe"},
		{"- {trustDomain: web.example, url: 'https://x', profile: https_spiffe, bundleFile: /x}", "endpointSPIFFEID"},
		{"- {trustDomain: web.example, url: 'https://x', profile: https_spiffe, bundleFile: /x, endpointSPIFFEID: 'spiffe://third.example/x'}", "is not of the trust domain web.example"},
		{"- {trustDomain: web.example, url: 'https://x', profile: https_spiffe, endpointSPIFFEID: 'spiffe://web.example/x'}", "bundleFile"},
		{"- {trustDomain: web.example, url: 'https://x', profile: https_spiffe, endpointSPIFFEID: 'spiffe://web.example/x', bundleFile: /x, rootsFile: /y}", "rootsFile"},
		{"- " + web + "\n- " + web, "entry 1: trustDomain: web.example is there twice"},
		{"- " + web + "\n---\n- " + web, "second document"},
		{"- {trustDomain: web.example, TRUSTDOMAIN: other.example, url: \"https://h\", profile: https_web}", "unknown field"},
		{"- {trustDomain: spiffe://web.example/ns/x, url: \"https://h\", profile: https_web}", "is more than a trust domain: want web.example"},
		{strings.Repeat("- "+web+"\n", identityv1.MaxFederated+1), "the limit is 16"},
	} {
		if _, err := Parse([]byte(row.text), here); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v, want %q", row.text, err, row.says)
		}
	}
}

// The number of the list goes to nodes with it. A file that would go back is refused, and what
// is only a part of a list has no number.
func TestTheListOfDomainsHasANumber(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	entry := r.spiffe(n)
	none := func(number int) string { return fmt.Sprintf("{number: %d, domains: []}", number) }
	list := func(number int, entries string) string {
		return fmt.Sprintf("number: %d\ndomains:\n%s", number, entries)
	}
	wants := func(when string, number uint64, domains int) {
		t.Helper()
		if is := r.ca.Federated(); is.Number != number || len(is.All) != domains {
			t.Errorf("%s: nodes are told of list %d with %d domains, want %d with %d", when, is.Number, len(is.All), number, domains)
		}
	}
	r.write(r.file, list(7, entry))
	f := r.open()
	wants("at first", 7, 1)
	r.write(r.file, none(6))
	f.look(nil)
	wants("a lower number", 7, 1)
	if trouble := f.Trouble(); !strings.Contains(trouble, "number: 6 is less than 7") {
		t.Errorf("a lower number: %q", trouble)
	}
	r.write(r.file, none(8))
	f.look(nil)
	wants("a greater number", 8, 0)
	var log bytes.Buffer
	f.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, text := range []string{entry, entry + "# said again\n"} {
		log.Reset()
		r.write(r.file, list(8, text))
		f.look(nil)
		wants("the same number", 8, 1)
		if warned := strings.Contains(log.String(), "has the same number"); warned != (text == entry) {
			t.Errorf("the same number, of a list with\n%sthe log says\n%s", text, &log)
		}
	}
	r.write(r.file, list(9, entry+"- {trustDomain: third.example}\n"))
	wants("a part, to a CA that starts", 0, len(r.open().followers))
	r.write(r.file, strings.Replace(list(9, entry), n.TrustDomain().Name()+".pem", "missing.pem", 1))
	wants("a list without the file of a domain, to a CA that starts", 0, len(r.open().followers))
}

// A bundle comes by https_spiffe, is followed, kept while the endpoint is away or says what
// is wrong, and survives a restart.
func TestTheLastGoodBundleStays(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	second, third := authority(t, other), authority(t, other)
	r.write(r.file, r.spiffe(n))
	f := r.open()
	r.wants(other, 0, 0) // nothing came yet
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	r.wants(other, 1, 1)
	n.says(t, 7, append(n.Roots(), second.Roots()...)...)
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	r.wants(other, 7, 2)

	bundle := func(change func(*spiffebundle.Bundle)) http.HandlerFunc {
		b := spiffebundle.FromX509Authorities(other, n.Roots())
		b.SetSequenceNumber(8)
		change(b)
		text, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(text) }
	}
	leaf, err := n.EndpointCertificate()(nil)
	if err != nil {
		t.Fatal(err)
	}
	many := authority(t, other).Roots()
	for len(many) <= identityv1.MaxFederatedRoots {
		many = append(many, authority(t, other).Roots()...)
	}
	for name, row := range map[string]struct {
		does http.HandlerFunc
		says string
	}{
		"an older one":        {bundle(func(b *spiffebundle.Bundle) { b.SetSequenceNumber(6) }), "it is older"},
		"none with a number":  {bundle(func(b *spiffebundle.Bundle) { b.ClearSequenceNumber() }), "has no number"},
		"no root":             {bundle(func(b *spiffebundle.Bundle) { b.SetX509Authorities(nil) }), "no authorities found"},
		"keys of another use": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) }, "has no root"},
		"too many roots":      {bundle(func(b *spiffebundle.Bundle) { b.SetX509Authorities(many) }), "the limit is 32"},
		"of our trust domain": {bundle(func(b *spiffebundle.Bundle) { b.SetX509Authorities(authority(t, here).Roots()) }), "it says that it is of spiffe://here.example"},
		"of a third": {bundle(func(b *spiffebundle.Bundle) {
			b.SetX509Authorities(authority(t, spiffeid.RequireTrustDomainFromString("third.example")).Roots())
		}), "spiffe://third.example"},
		"our own root":   {bundle(func(b *spiffebundle.Bundle) { b.SetX509Authorities(r.ca.Roots()) }), "its key is that of a root of this trust domain"},
		"a leaf as root": {bundle(func(b *spiffebundle.Bundle) { b.SetX509Authorities([]*x509.Certificate{leaf.Leaf}) }), "no authority's certificate"},
		"too long":       {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxBundle+1)) }, "more than"},
		"not JSON":       {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "no bundle"},
		"an error":       {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }, "502"},
		"another place":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, "leads elsewhere"},
	} {
		n.does(row.does)
		err := r.attempt(f, other)
		t.Log(name, err)
		r.refused(err, row.says)
		r.wants(other, 7, 2)
	}
	if s := f.Status()[0]; s.Failures != 13 || s.Problem == "" || s.Fetched.IsZero() {
		t.Errorf("%+v", s)
	}

	// After a restart it is known at once, with its number; so is the endpoint.
	f = r.open()
	r.wants(other, 7, 2)
	n.says(t, 6, n.Roots()...)
	r.refused(r.attempt(f, other), "it is older")
	n.says(t, 8, append(n.Roots(), third.Roots()...)...)
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	r.wants(other, 8, 2)
}

// An endpoint that proves to be somebody else is not listened to.
func TestTheEndpointMustProveItself(t *testing.T) {
	r, n, impostor := newRig(t), newNeighbour(t, other), newNeighbour(t, other) // of the same name
	r.write(r.file, strings.Replace(r.spiffe(n), n.url, impostor.url, 1))
	r.refused(r.attempt(r.open(), other), "x509svid")
	r.write(r.file, strings.Replace(r.spiffe(n), "/culvert/identity", "/spire/server", 1))
	r.refused(r.attempt(r.open(), other), "the endpoint is spiffe://other.example/culvert/identity, want spiffe://other.example/spire/server")
	r.wants(other, 0, 0)
}

// A bundle file that is written anew counts again: so an endpoint is reached that changed its
// root while nobody looked. The former file does not, once a bundle has come.
func TestANewBundleFileLeadsToTheEndpointAgain(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	r.write(r.file, r.spiffe(n))
	f := r.open()
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	next := newNeighbour(t, other)
	next.says(t, 2, next.Roots()...)
	f.followers[other].domain.URL = next.url
	r.refused(r.attempt(f, other), "x509svid")
	r.pem("other.example.pem", next.Roots()...)
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	r.wants(other, 2, 1)
	f.followers[other].domain.URL = n.url // whose root the bundle has dropped
	r.refused(r.attempt(f, other), "x509svid")
}

// By https_web the endpoint is known by its name, and the roots are those of a file.
func TestABundleComesByHTTPSWeb(t *testing.T) {
	r, foreign := newRig(t), authority(t, other)
	b := spiffebundle.FromX509Authorities(other, foreign.Roots())
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(text) }))
	defer server.Close()
	entry := "- {trustDomain: other.example, url: '" + server.URL + "', profile: https_web"
	r.write(r.file, entry+"}\n")
	r.refused(r.attempt(r.open(), other), "certificate signed by unknown authority")
	r.write(r.file, entry+", rootsFile: '"+r.pem("web.pem", server.Certificate())+"'}\n")
	f := r.open()
	if err := r.attempt(f, other); err != nil {
		t.Fatal(err)
	}
	r.wants(other, 0, 1)
	if s := f.Status()[0]; s.RefreshSeconds != DefaultRefresh.Seconds() {
		t.Errorf("a bundle without a hint is fetched every %v s", s.RefreshSeconds)
	}
}

// The file is followed: a domain comes and goes, a wrong file changes nothing.
func TestTheFileIsFollowed(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	web := newNeighbour(t, spiffeid.RequireTrustDomainFromString("second.example"))
	r.write(r.file, r.spiffe(n))
	f := r.open()
	r.runs(f)
	roots := func(td spiffeid.TrustDomain) int { told, _ := r.told(td); return len(told.Roots) }
	r.eventually("the first domain's bundle is there", func() bool { return roots(other) == 1 })
	entry := r.spiffe(web)
	r.write(r.file, r.spiffe(n)+entry)
	r.eventually("the second's is, too", func() bool { return roots(web.TrustDomain()) == 1 })
	r.write(r.file, "- {trustDomain: here.example}\n")
	r.eventually("the file is said to be wrong", func() bool { return strings.Contains(f.Trouble(), "that of this mesh") })
	if roots(other) != 1 || roots(web.TrustDomain()) != 1 {
		t.Error("a wrong file ended a federation")
	}
	r.write(r.file, entry)
	r.eventually("the first domain has gone", func() bool { _, is := r.told(other); return !is })
	r.eventually("and what was kept of it", func() bool { _, err := os.Stat(statePath(r.state, other)); return os.IsNotExist(err) })
	if roots(web.TrustDomain()) != 1 || f.Trouble() != "" {
		t.Errorf("the second domain did not stay: %s", f.Trouble())
	}
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.eventually("the file is said to be gone", func() bool { return f.Trouble() != "" })
	if roots(web.TrustDomain()) != 1 {
		t.Error("a file that is gone ended a federation")
	}
}

// What was kept may be damaged: then it counts for nothing, and the bundle is fetched anew.
func TestADamagedStateIsFetchedAnew(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	r.write(r.file, r.spiffe(n))
	if err := r.attempt(r.open(), other); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"trustDomain":"here.example","roots":[]}`, `{"trustDomain":"other.example","roots":["AAAA"]}`} {
		r.write(statePath(r.state, other), text)
		f := r.open()
		r.wants(other, 0, 0)
		if err := r.attempt(f, other); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		r.wants(other, 1, 1)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("- {trustDomain: other.example, url: 'https://x', profile: https_web}")
	f.Add("{number: 7, domains: [{trustDomain: other.example, url: 'https://x', profile: https_web}]}")
	f.Add("[{trustDomain: a, url: 'https://x', profile: https_spiffe, endpointSPIFFEID: 'spiffe://a/b', bundleFile: c}]")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse([]byte(text), here)
		for _, d := range all.Domains {
			if err == nil && (d.TrustDomain == here || !strings.HasPrefix(d.URL, "https://") && !strings.HasPrefix(strings.ToLower(d.URL), "https://")) {
				t.Errorf("%q gives %+v", text, d)
			}
		}
	})
}
