// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// maxFile bounds what is read as one certificate or key.
const maxFile = 64 << 10

// lock holds other processes that open the same directory off until unlock.
// It locks the directory itself, so that the lock leaves no file behind.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %v", dir, err)
	}
	return func() { f.Close() }, nil
}

// generate makes root and issuer in dir, which is empty and locked.
//
// P-256 for both: each handshake verifies the issuer under the root, and a
// P-384 signature takes Go ten times as long.
func generate(dir string, opts Options) error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root, err := selfSigned(opts, rootKey)
	if err != nil {
		return err
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := authority("culvert issuer", opts.TrustDomain, opts.IssuerTTL, 0)
	template.NotAfter = earliest(template.NotAfter, root.NotAfter)
	issuer, err := create(template, root, issuerKey.Public(), rootKey)
	if err != nil {
		return err
	}
	return store(dir, root, rootKey, issuer, issuerKey)
}

func selfSigned(opts Options, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	// The number makes the subject unique: verifiers look roots up by it, and
	// two roots of one name slow down or confuse some of them.
	template := authority(fmt.Sprintf("culvert root %x", n.Bytes()[:4]), opts.TrustDomain, opts.RootTTL, 1)
	return create(template, template, key.Public(), key)
}

// store writes all four files or names none. They are complete on disk under
// other names before the first gets its own; a crash from then on leaves a
// part of the set, which Open refuses: it never makes another CA over it.
func store(dir string, root *x509.Certificate, rootKey *ecdsa.PrivateKey, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (err error) {
	content := make(map[string][]byte)
	content[RootFile], content[IssuerFile] = encodeCert(root), encodeCert(issuer)
	if content[RootKeyFile], err = encodeKey(rootKey); err != nil {
		return err
	}
	if content[IssuerKeyFile], err = encodeKey(issuerKey); err != nil {
		return err
	}
	var staged []string
	defer func() {
		for _, path := range staged {
			os.Remove(path) // those renamed are no longer there
		}
	}()
	for _, name := range files {
		path := filepath.Join(dir, "."+name+".new")
		staged = append(staged, path)
		mode := os.FileMode(0o600)
		if name == RootFile || name == IssuerFile {
			mode = 0o644
		}
		if err := writeSynced(path, content[name], mode); err != nil {
			return err
		}
	}
	for i, name := range files {
		if err := os.Rename(staged[i], filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

func writeSynced(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readPair(dir, certName, keyName string) (*x509.Certificate, crypto.Signer, error) {
	block, err := readBlock(dir, certName, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %v", certName, err)
	}
	block, err = readBlock(dir, keyName, "PRIVATE KEY", "EC PRIVATE KEY")
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %v", keyName, err)
	}
	return cert, key, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	if block.Type == "EC PRIVATE KEY" {
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, want ECDSA", key)
	}
	return signer, nil
}

// readBlock reads a file that holds exactly one PEM block of one of the types.
// No error quotes its content: it may be a key.
func readBlock(dir, name string, types ...string) (*pem.Block, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", name)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("%s holds more than one PEM block", name)
	}
	for _, want := range types {
		if block.Type == want {
			return block, nil
		}
	}
	return nil, fmt.Errorf("%s holds a %q, want a %q", name, block.Type, types[0])
}
