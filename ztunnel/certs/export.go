// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Exported is an SVID with its key and the bundle, all in DER.
type Exported struct {
	Chain [][]byte // leaf first
	Key   []byte   // PKCS #8
	Roots [][]byte
}

// Export returns the SVID of id with its key: for a pod of id, and nobody else. The channel
// is closed when another SVID or bundle is in force. Without a valid SVID it waits as Server
// does.
func (s *Store) Export(ctx context.Context, id spiffeid.ID) (Exported, <-chan struct{}, error) {
	s.mu.Lock()
	changed := s.news
	s.mu.Unlock()
	own, err := s.acquire(ctx, id)
	if err != nil {
		return Exported{}, changed, err
	}
	exported := Exported{Chain: own.certificate().Certificate}
	if exported.Key, err = own.key.export(); err != nil {
		return Exported{}, changed, err
	}
	for _, root := range s.roots().roots {
		exported.Roots = append(exported.Roots, root.Raw)
	}
	return exported, changed, nil
}

// export is the key as PKCS #8.
func (k *privateKey) export() ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.key == nil {
		return nil, errForgotten
	}
	return x509.MarshalPKCS8PrivateKey(k.key)
}

// announce wakes those that were given the SVID and bundle of before; s.mu is held.
func (s *Store) announce() {
	close(s.news)
	s.news = make(chan struct{})
}
