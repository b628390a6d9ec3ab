// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/cipher"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/aead"
)

// newAEAD is AES-GCM with 96-bit nonces and 128-bit tags.
func newAEAD(key []byte) (cipher.AEAD, error) { return aead.New(key) }

// eraseAEAD zeroises a key schedule that nobody uses any more.
func eraseAEAD(a cipher.AEAD) {
	if gcm, ok := a.(*aead.GCM); ok && gcm != nil {
		gcm.Close()
	}
}
