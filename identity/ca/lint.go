// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Lint says all that is wrong with the files of a CA, as far as it can be told: what
// cannot be read is not examined further. Take refuses files exactly if one of the
// defects is an Error. No defect quotes a file: it may be a key.
//
// Of opts it needs nothing. Without a TrustDomain it takes that which the certificates
// name, or cluster.local; without ServerNames and LeafTTL it does not ask for what
// these need.
func Lint(files Files, opts Options) []Defect {
	if opts.TrustDomain.IsZero() {
		opts.TrustDomain = domainOf(files)
	}
	return examine(files, opts).defects
}

// domainOf is the trust domain that the issuer names, or else one of the roots.
func domainOf(files Files) spiffeid.TrustDomain {
	e := &examination{files: files}
	if e.detect(); len(e.errors()) == 0 {
		e.read()
	}
	for _, cert := range append(slices.Clone(e.chain), e.roots...) {
		for _, uri := range cert.URIs {
			if id, err := spiffeid.FromURI(uri); err == nil {
				return id.TrustDomain()
			}
		}
	}
	return spiffeid.RequireTrustDomainFromString("cluster.local")
}

// LintModes says what is wrong with the modes of a directory and of the files of a CA
// in it; of a file, an Error says that the CA is refused. An error says that the
// directory cannot be looked at.
func LintModes(dir string) ([]Defect, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	e := &examination{}
	if mode := info.Mode(); mode.Perm()&othersWrite != 0 && mode&fs.ModeSticky == 0 {
		e.report(openDirectory, dir, "%s has the mode %04o: everybody on this machine can put another CA there", dir, mode.Perm())
	}
	var seen []string
	for _, n := range layouts {
		for _, name := range n.all() {
			if slices.Contains(seen, name) {
				continue
			}
			seen = append(seen, name)
			info, err := os.Stat(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			e.checkMode(name, info.Mode().Perm(), name == n.key || name == n.rootKey)
		}
	}
	return e.defects, nil
}

// Bits of a mode.
const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
)

func (e *examination) checkMode(name string, mode fs.FileMode, secret bool) {
	switch {
	case secret && mode&othersWrite != 0:
		e.report(writableKey, name, "%s has the mode %04o: everybody on this machine can replace the key", name, mode)
	case secret && mode&othersRead != 0:
		e.report(readableKey, name, "%s has the mode %04o: everybody on this machine can read the key", name, mode)
	case !secret && mode&othersWrite != 0:
		e.report(writableCert, name, "%s has the mode %04o: everybody on this machine can replace the certificate", name, mode)
	}
}

// Warnings are the defects of what is in force; none before Load.
func (c *CA) Warnings() []Defect {
	if a := c.inForce.Load(); a != nil {
		return slices.Clone(a.warnings)
	}
	return nil
}

// warn logs what is wrong with what is in force, and with where it lives, whenever
// that is something else than before.
func (k *Keeper) warn() {
	defects := k.ca.Warnings()
	if place, ok := k.store.(interface{ warnings() []Defect }); ok {
		defects = append(defects, place.warnings()...)
	}
	if slices.Equal(defects, k.defects) {
		return
	}
	k.defects = defects
	for _, d := range defects {
		k.log.Warn("the CA has a defect", logStore, k.store.String(), logCode, d.Code, logDefect, d.What, logFollows, d.Follows, logMend, d.Mend)
	}
}
