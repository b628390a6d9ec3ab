// SPDX-License-Identifier: Apache-2.0

// Package signing is about private keys that another process holds: a signer, which
// answers on a unix socket and has its key in a PKCS#11 token or a cloud's KMS. The CA
// knows such a key by a reference: the signer's URI, and the public key.
package signing

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// BlockType is the type of the PEM block that stands for a key of a signer.
const BlockType = "CULVERT SIGNER KEY"

const (
	scheme    = "unix:"
	uriHeader = "Signer"
	maxPath   = 103 // bytes of a socket's path, as the kernel has it
)

// ErrAway is wrapped when a signer does not answer, or cannot sign now.
var ErrAway = errors.New("the signer cannot sign now")

// ErrOtherKey is wrapped when a signer has another key than the reference says.
var ErrOtherKey = errors.New("the signer has another key")

// Key is a private key of a signer. It is a crypto.Signer, safe for concurrent use.
type Key struct {
	path   string
	public crypto.PublicKey
	spki   []byte // DER of public

	mu      sync.Mutex // guards what follows
	trouble error      // what the last attempt came to; nil: a signature
	asked   time.Time  // when the last attempt began
	asking  int        // attempts under way
	counts  Counts
}

// Counts are how often a signer was asked, by what came of it.
type Counts struct {
	Signed uint64 // signatures
	Away   uint64 // no answer in time, or one that it cannot sign
	Wrong  uint64 // another key, or a signature that does not verify
}

// IsURI reports whether a text names a signer, and not a file.
func IsURI(text string) bool { return strings.HasPrefix(text, scheme) }

// parse returns the path of the socket that a URI names.
func parse(uri string) (path string, err error) {
	path, ok := strings.CutPrefix(uri, scheme)
	switch {
	case !ok:
		return "", fmt.Errorf("%q is no signer: want unix:PATH, the socket of culvert-signer", uri)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return "", fmt.Errorf("%q: want unix: and an absolute path", uri)
	case len(path) > maxPath:
		return "", fmt.Errorf("%q: the path has %d bytes, a socket's has at most %d", uri, len(path), maxPath)
	}
	return path, nil
}

// newKey is the key of a public key in DER (SubjectPublicKeyInfo).
func newKey(uri string, spki []byte) (*Key, error) {
	path, err := parse(uri)
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("the public key of %s: %v", uri, err)
	}
	return &Key{path: path, public: public, spki: spki}, nil
}

// Parse returns the key that a PEM block of the type BlockType stands for. It does not ask
// the signer.
func Parse(block *pem.Block) (*Key, error) {
	if block.Type != BlockType {
		return nil, fmt.Errorf("a %q is no reference to a signer's key", block.Type)
	}
	return newKey(block.Headers[uriHeader], block.Bytes)
}

// Reference is what stands for the key in the place of a private key, in PEM.
func (k *Key) Reference() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: BlockType, Headers: map[string]string{uriHeader: k.String()}, Bytes: k.spki})
}

// Public is part of crypto.Signer.
func (k *Key) Public() crypto.PublicKey { return k.public }

// String is the URI of the signer.
func (k *Key) String() string { return scheme + k.path }

// Counts are those since the key was parsed.
func (k *Key) Counts() Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counts
}

// fingerprint names a public key in DER.
func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}
