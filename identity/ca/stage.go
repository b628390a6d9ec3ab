// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity/signing"
	"github.com/culvert-mesh/culvert/regular"
)

// A directory is written in steps, so that a process that is killed between two of
// them leaves what mend can end:
//
//	each file is complete on disk under its staged name
//	the directory is on disk
//	each staged file gets its own name
//	files that are to go are removed
//	the directory is on disk
//
// Until the first has its name nothing has happened. From then on, what is there with
// what is staged over it is the new CA, whole.
type step func() error

// stagedName is the name of a file before it gets its own.
func stagedName(name string) string { return "." + name + ".new" }

// staged is the name that a staged file is to get, or "".
func staged(name string) string {
	for _, own := range append(slices.Clone(fileNames), BundleFile, RekeyFile) {
		if stagedName(own) == name {
			return own
		}
	}
	return ""
}

// write writes all files, or none. The caller holds the lock.
func (d Directory) write(files Files) error {
	stage, commit := d.steps(files)
	for _, step := range stage {
		if err := step(); err != nil {
			return errors.Join(err, d.unstage(files))
		}
	}
	for _, step := range commit {
		if err := step(); err != nil {
			return err // mend goes on with it
		}
	}
	return nil
}

func (d Directory) steps(files Files) (stage, commit []step) {
	var removals []step
	for _, name := range slices.Sorted(maps.Keys(files)) {
		staged, own := filepath.Join(d.Path, stagedName(name)), filepath.Join(d.Path, name)
		if files[name] == nil {
			removals = append(removals, func() error { return removed(own) })
			continue
		}
		stage = append(stage, func() error { return writeSynced(staged, own, files[name]) })
		commit = append(commit, func() error { return os.Rename(staged, own) })
	}
	sync := func() error { return syncDir(d.Path) }
	return append(stage, sync), append(append(commit, removals...), sync)
}

func removed(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unstage removes staged files.
func (d Directory) unstage(files Files) error {
	var problems []error
	for name := range files {
		problems = append(problems, removed(filepath.Join(d.Path, stagedName(name))))
	}
	return errors.Join(problems...)
}

// mend ends what a process that was killed has begun: it gives staged files their
// names if a whole CA comes of it, or else removes them if nothing is lost by that.
func (d Directory) mend() error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return err
	}
	var found []string
	half := Files{}
	for _, entry := range entries {
		if name := staged(entry.Name()); name != "" {
			half[name], _ = regular.ReadFile(filepath.Join(d.Path, entry.Name()), maxBundle) // unreadable: not whole
		} else if slices.Contains(fileNames, entry.Name()) {
			found = append(found, entry.Name())
		}
	}
	if len(half) == 0 || !d.writable() {
		return nil
	}
	there, err := d.readAll(found)
	if err != nil {
		return err
	}
	next := maps.Clone(there)
	maps.Copy(next, half)
	switch {
	case whole(next):
		return d.rename(half)
	case len(there) == 0 || whole(there):
		return d.unstage(half)
	}
	return nil // what is missing is said of what has its name
}

// rename gives staged files their names. A record is not among them: the number that
// it holds was told to nobody.
func (d Directory) rename(half Files) error {
	if _, record := half[BundleFile]; record {
		delete(half, BundleFile)
		if err := d.unstage(Files{BundleFile: nil}); err != nil {
			return err
		}
	}
	for name := range half {
		if err := os.Rename(filepath.Join(d.Path, stagedName(name)), filepath.Join(d.Path, name)); err != nil {
			return err
		}
	}
	return syncDir(d.Path)
}

// whole reports whether files are all of a CA as Culvert writes it, of one issuer.
// When they hold, and for whom, is not asked. How far a re-key is must be readable: half of
// it says nothing.
func whole(files Files) bool {
	if text, there := files[RekeyFile]; there && !json.Valid(text) {
		return false
	}
	roots, err := certificatesOf(files[RootFile])
	if err != nil || len(roots) == 0 {
		return false
	}
	issuers, err := certificatesOf(files[IssuerFile])
	if err != nil || len(issuers) == 0 || !keyFits(files[IssuerKeyFile], issuers[:1]) {
		return false
	}
	_, online := files[RootKeyFile]
	return !online || keyFits(files[RootKeyFile], roots)
}

// certificatesOf returns the certificates of a text.
func certificatesOf(text []byte) (certs []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// keyFits reports whether a text is the key of one of the certificates.
func keyFits(text []byte, certs []*x509.Certificate) bool {
	key := keyOf(text)
	return key != nil && slices.ContainsFunc(certs, func(cert *x509.Certificate) bool { return belongs(key, cert) })
}

// keyOf returns the key in a text, or nil.
func keyOf(text []byte) crypto.Signer {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == signing.BlockType {
			if key, err := signing.Parse(block); err == nil {
				return key
			}
			continue
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if key, err := parseKey(block); err == nil {
			signer, _ := key.(crypto.Signer)
			return signer
		}
	}
	return nil
}

func belongs(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// writeSynced writes a staged file. It has the mode and the owner of the file whose
// place it takes: an operator who renews an issuer is not the user that the CA runs as.
func writeSynced(path, own string, content []byte) error {
	mode := os.FileMode(0o600)
	if strings.HasSuffix(own, ".pem") || strings.HasSuffix(own, BundleFile) {
		mode = 0o644
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, Inherit(f, own), f.Sync(), f.Close())
}

// Inherit gives a file the owner of its directory, and, of the file whose place it
// will take, owner and mode.
func Inherit(f *os.File, own string) error {
	dir, err := os.Stat(filepath.Dir(own))
	if err != nil {
		return err
	}
	before, err := os.Lstat(own)
	if err == nil && before.Mode().IsRegular() {
		dir = before
		if err := f.Chmod(before.Mode().Perm()); err != nil {
			return err
		}
	}
	return regular.GiveTo(f, dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
