// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// errForgotten fails a handshake that began before its identity's last pod went.
var errForgotten = errors.New("the key was forgotten with the last pod of its ServiceAccount")

// privateKey signs until it is forgotten. A tls.Config keeps it for as long as
// somebody keeps the Config; the key inside goes when we say so.
type privateKey struct {
	public *ecdsa.PublicKey

	mu  sync.RWMutex // guards key: forget waits for signatures under way
	key *ecdsa.PrivateKey
}

func newPrivateKey() (*privateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &privateKey{public: &key.PublicKey, key: key}, nil
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

// forget overwrites the key. What crypto/ecdsa derived from it goes with the
// next garbage collection, as nothing refers to it any more.
func (k *privateKey) forget() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		return
	}
	//lint:ignore SA1019 no other API reaches the scalar's memory
	clear(k.key.D.Bits())
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
