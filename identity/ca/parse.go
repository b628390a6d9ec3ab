// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"time"
)

// examination is what becomes of the files of a CA: an authority, or defects.
type examination struct {
	opts    Options
	files   Files
	names   names    // of the layout in use
	others  []string // layouts that are complete too
	defects []Defect

	roots   []certificate // each once
	chain   []certificate // the issuer, then what signed it, up to below a root
	anchors []certificate // the roots that the chain leads to, those that hold now first, of these the latest to expire
	key     crypto.Signer // the issuer's
}

// parse returns what the files are a CA of, or why nodes would not accept it.
func (c *CA) parse(files Files) (*authority, error) {
	e := examine(files, c.opts)
	if refused := e.errors(); refused != nil {
		return nil, refused
	}
	return e.authority(), nil
}

// examine asks first for what can be named, with the file at fault; then it signs,
// and verifies that. Each step needs that the one before found no error.
func examine(files Files, opts Options) *examination {
	e := &examination{opts: opts, files: files}
	for _, step := range []func(){e.detect, e.read, e.checkKeys, e.checkSigner, e.checkCertificates, e.link, e.checkChain, e.checkNow, e.checkLives, e.probe} {
		if step(); e.errors() != nil {
			return e
		}
	}
	return e
}

func (e *examination) detect() {
	there := e.files.names()
	layout, missing, err := Detect(there)
	switch {
	case err != nil:
		e.report(noLayout, "", "%v", err)
		return
	case layout == "":
		layout, missing = Culvert, of(Culvert).missing(there)
	}
	e.names = of(layout)
	for _, other := range layouts {
		if other.layout != layout && other.own(there) && len(other.missing(there)) == 0 {
			e.others = append(e.others, string(other.layout))
			e.report(otherLayout, other.issuer, "%s and what else the layout %s has are there too, and the layout %s is in use", other.issuer, other.layout, layout)
		}
	}
	for _, name := range missing {
		e.report(fileMissing, name, "%s is missing%s", name, e.beside())
	}
}

// beside says that files of other layouts are no substitute: they may be of another
// CA, and whoever put them there knows which is meant.
func (e *examination) beside() string {
	if e.others == nil {
		return ""
	}
	return fmt.Sprintf("; the files of the layout %s are complete, and are not taken in place of those of the layout %s",
		strings.Join(e.others, ", "), e.names.layout)
}

func (e *examination) read() {
	for _, root := range e.certificates(e.names.bundle(e.files), maxBundle, maxRoots) {
		if slices.ContainsFunc(e.roots, root.is) {
			e.report(rootTwice, root.file, "%s is the same as one before it", root)
			continue
		}
		e.roots = append(e.roots, root)
	}
	e.chain = e.certificates(e.names.issuer, maxChain, maxCerts)
	if _, there := e.files[e.names.chain]; there {
		e.chain = append(e.chain, e.certificates(e.names.chain, maxChain, maxCerts)...)
	}
	e.key = e.privateKey(e.names.key)
}

// is reports whether two are the same, wherever they were found.
func (c certificate) is(other certificate) bool { return c.Equal(other.Certificate) }

// holds reports whether it is within its time.
func (c certificate) holds(now time.Time) bool {
	return !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

// authority is what the files are, if there is no error.
func (e *examination) authority() *authority {
	a := &authority{layout: e.names.layout, key: e.key, warnings: e.defects, backdate: max(maxBackdate, e.opts.ClockSkew)}
	for _, root := range e.roots {
		a.roots = append(a.roots, root.Certificate)
	}
	for _, cert := range e.chain {
		a.chain = append(a.chain, cert.Certificate)
	}
	a.anchor = e.anchors[0].Certificate
	a.form = newForm(a.issuer(), a.key)
	return a
}
