// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"fmt"
	"slices"
	"strings"
)

// Layout says under which names the files of a CA lie. Its text is for people.
type Layout string

// Layouts in order of precedence: of several in one place, the first is in use.
const (
	Culvert     Layout = "culvert"     // root.pem, issuer.pem, issuer.key
	Istio       Layout = "istio"       // root-cert.pem, ca-cert.pem, ca-key.pem, cert-chain.pem
	Dapr        Layout = "dapr"        // ca.crt, issuer.crt, issuer.key
	Linkerd     Layout = "linkerd"     // ca-bundle.crt or ca.crt, crt.pem, key.pem
	CertManager Layout = "certmanager" // ca.crt, tls.crt, tls.key: a Secret of the type kubernetes.io/tls
)

// names are those of one layout's files.
type names struct {
	layout  Layout
	issuer  string   // the issuer's certificate, then perhaps its intermediates
	key     string   // the issuer's
	roots   []string // the bundle: the first of them that is there
	rootKey string   // optional
	chain   string   // intermediates in a file of their own, optional
}

// layouts are tried in this order. Two share names: ca.crt says of no layout that it
// is in use, and issuer.key belongs to the first whose other files are there.
var layouts = []names{
	{layout: Culvert, issuer: IssuerFile, key: IssuerKeyFile, roots: []string{RootFile}, rootKey: RootKeyFile},
	{layout: Istio, issuer: "ca-cert.pem", key: "ca-key.pem", roots: []string{"root-cert.pem"}, chain: "cert-chain.pem"},
	{layout: Dapr, issuer: "issuer.crt", key: "issuer.key", roots: []string{"ca.crt"}},
	{layout: Linkerd, issuer: "crt.pem", key: "key.pem", roots: []string{"ca-bundle.crt", "ca.crt"}},
	{layout: CertManager, issuer: "tls.crt", key: "tls.key", roots: []string{"ca.crt"}},
}

// shared are the names that more than one layout has.
var shared = []string{"ca.crt", IssuerKeyFile}

// Detect says which layout is in use among the names of a place: in a directory, or
// of a Secret. It is the first of which a file is there that no other layout has.
// What is missing of it is named, even if the files of a later layout are complete:
// whoever lost a file of their CA must not get another CA in its place.
//
// No layout and no error says that none of the names belongs to a CA. An error says
// that some do, and that it cannot be told of which layout.
func Detect(there []string) (layout Layout, missing []string, err error) {
	for _, n := range layouts {
		if n.own(there) {
			return n.layout, n.missing(there), nil
		}
	}
	for _, name := range shared {
		if slices.Contains(there, name) {
			return "", nil, fmt.Errorf("%s is there, but no certificate of an issuer (%s)", name, strings.Join(issuerNames(), ", "))
		}
	}
	return "", nil, nil
}

func issuerNames() (all []string) {
	for _, n := range layouts {
		all = append(all, n.issuer)
	}
	return all
}

// Known reports whether a file of that name may be a part of a CA.
func Known(name string) bool {
	return slices.ContainsFunc(layouts, func(n names) bool { return slices.Contains(n.all(), name) })
}

// of are the names of a layout; the zero value if there is no such layout.
func of(layout Layout) names {
	for _, n := range layouts {
		if n.layout == layout {
			return n
		}
	}
	return names{}
}

// all are the names that a layout may have.
func (n names) all() (all []string) {
	for _, name := range append(slices.Clone(n.roots), n.issuer, n.key, n.rootKey, n.chain) {
		if name != "" {
			all = append(all, name)
		}
	}
	return all
}

// own reports whether a file is there that is the layout's alone.
func (n names) own(there []string) bool {
	return slices.ContainsFunc(n.all(), func(name string) bool {
		return !slices.Contains(shared, name) && slices.Contains(there, name)
	})
}

// missing are the names without which the layout is no CA.
func (n names) missing(there []string) (missing []string) {
	if !slices.ContainsFunc(n.roots, func(name string) bool { return slices.Contains(there, name) }) {
		missing = append(missing, strings.Join(n.roots, " or "))
	}
	for _, name := range []string{n.issuer, n.key} {
		if !slices.Contains(there, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// bundle is the name of the file with the roots.
func (n names) bundle(files Files) string {
	for _, name := range n.roots {
		if _, there := files[name]; there {
			return name
		}
	}
	return n.roots[0]
}

// names are those of the files.
func (f Files) names() (there []string) {
	for name := range f {
		there = append(there, name)
	}
	slices.Sort(there)
	return there
}
