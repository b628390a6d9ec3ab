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
// is closed when another SVID of id or another bundle is in force. Without a valid SVID it
// waits as Server does.
func (s *Store) Export(ctx context.Context, id spiffeid.ID) (Exported, <-chan struct{}, error) {
	s.mu.Lock()
	var changed <-chan struct{}
	if e := s.entries[id]; e != nil {
		changed = e.news.wait()
	}
	s.mu.Unlock()
	own, err := s.acquire(ctx, id)
	if err != nil {
		return Exported{}, nil, err
	}
	exported := Exported{Chain: own.certificate().Certificate, Roots: s.roots().encoded()}
	if exported.Key, err = own.key.export(); err != nil {
		return Exported{}, nil, err
	}
	return exported, changed, nil
}

// ExportBundle returns the roots in DER, none while no bundle came. The channel is closed
// when another bundle is in force.
func (s *Store) ExportBundle() (roots [][]byte, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundle.encoded(), s.news.wait()
}

func (b *bundle) encoded() (roots [][]byte) {
	if b == nil {
		return nil
	}
	for _, root := range b.roots {
		roots = append(roots, root.Raw)
	}
	return roots
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

// news wakes those that wait for what comes next. Store.mu guards it.
type news struct{ next chan struct{} } // nil while nobody waits

// wait returns a channel that the next tell closes.
func (n *news) wait() <-chan struct{} {
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

func (n *news) tell() {
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}

// tellBundle wakes everyone that was given the bundle of before; s.mu is held.
func (s *Store) tellBundle() {
	s.news.tell()
	for _, e := range s.entries {
		e.news.tell()
	}
}
