// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// errForgotten fails a handshake that began before its identity's last pod went.
var errForgotten = errors.New("the key was forgotten with the last pod of its ServiceAccount")

// privateKey signs until it is forgotten. A tls.Config keeps it for as long as
// somebody keeps the Config; the key inside goes when we say so.
type privateKey struct {
	public publicKey

	mu  sync.RWMutex // guards key: forget waits for signatures under way
	key crypto.Signer
}

// publicKey is what all of Go's public keys are.
type publicKey interface{ Equal(crypto.PublicKey) bool }

func newPrivateKey(kind identity.KeyKind) (*privateKey, error) {
	key, err := kind.New()
	if err != nil {
		return nil, err
	}
	return givenKey(key)
}

// givenKey is one that an issuer made.
func givenKey(key crypto.Signer) (*privateKey, error) {
	if key == nil {
		return nil, errors.New("the issuer gave no key")
	}
	public, ok := key.Public().(publicKey)
	if !ok {
		return nil, fmt.Errorf("the issuer gave a key of the unknown kind %T", key)
	}
	return &privateKey{public: public, key: key}, nil
}

// Public and Sign make a privateKey a crypto.Signer.
func (k *privateKey) Public() crypto.PublicKey { return k.public }

// Sign fails once the key is forgotten.
func (k *privateKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.key == nil {
		return nil, errForgotten
	}
	return k.key.Sign(random, digest, opts)
}

// forget overwrites the key. What Go derived from it, and a key of ML-DSA, to whose memory
// no API leads, go with the next garbage collection, as nothing refers to them any more.
func (k *privateKey) forget() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		return
	}
	switch key := k.key.(type) {
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 no other API reaches the scalar's memory
		clear(key.D.Bits())
	case *rsa.PrivateKey:
		clear(key.D.Bits())
		for _, prime := range key.Primes {
			clear(prime.Bits())
		}
	case ed25519.PrivateKey:
		clear(key)
	}
	k.key = nil
}

// keyLinger is how long a key is kept once another SVID took the place of its own: a
// handshake that began with it has ended by then, dial included.
const keyLinger = 30 * time.Second

// retiredKey is the key of an SVID that was replaced.
type retiredKey struct {
	key *privateKey
	at  time.Time // when it was replaced
}

// forgetRetired overwrites the keys that were replaced long ago; the zero time is for all.
func (e *entry) forgetRetired(now time.Time) {
	rest := e.retired[:0]
	for _, r := range e.retired {
		if !now.IsZero() && now.Sub(r.at) < keyLinger {
			rest = append(rest, r)
			continue
		}
		r.key.forget()
	}
	clear(e.retired[len(rest):])
	e.retired = rest
}

// bury overwrites the keys that no handshake can need any more; s.mu is held.
func (s *Store) bury(now time.Time) {
	for _, e := range s.entries {
		if len(e.retired) > 0 {
			e.forgetRetired(now)
		}
	}
}

// csr asks for a certificate for id in PEM. Our CA takes nothing but the key
// from it; istiod wants to read the ID here, too.
func (k *privateKey) csr(id spiffeid.ID) ([]byte, error) {
	template := &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}
