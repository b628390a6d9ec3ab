// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

const (
	headerSize    = 5
	tagSize       = 16
	tailSize      = 1 + tagSize             // content type and tag
	overhead      = headerSize + tailSize   // of a record without padding
	maxPlaintext  = 1 << 14                 // RFC 8446 §5.1
	maxCiphertext = maxPlaintext + 256      // RFC 8446 §5.2
	fullRecord    = maxPlaintext + overhead // as we write it
	version12     = 0x0303                  // legacy_record_version, RFC 8446 §5.2
)

// defaultKeyLimit is the records sealed under one key; RFC 8446 §5.5 allows
// 2^24.5 full ones. A peer that is asked for another key and goes on to twice as
// many is refused, so no sequence number comes near to wrapping (§5.3).
const defaultKeyLimit = 1 << 24

// Content types, RFC 8446 §5.1.
const (
	typeAlert           = 21
	typeHandshake       = 22
	typeApplicationData = 23
)

// suite is what a cipher suite means for records.
type suite struct {
	keySize    int
	secretSize int
	hash       func() hash.Hash
}

var suites = map[uint16]*suite{
	tls.TLS_AES_128_GCM_SHA256: {16, sha256.Size, sha256.New},
	tls.TLS_AES_256_GCM_SHA384: {32, sha512.Size384, sha512.New384},
}

// half protects one direction.
type half struct {
	suite  *suite
	aead   cipher.AEAD
	seq    uint64 // of the next record
	iv     [12]byte
	nonce  [12]byte // of the record at hand; here, so that it need not escape
	secret [sha512.Size384]byte
}

// begin starts the direction with a traffic secret.
func (h *half) begin(s *suite, secret []byte) error {
	if len(secret) != s.secretSize {
		return fmt.Errorf("traffic secret of %d bytes, want %d", len(secret), s.secretSize)
	}
	h.suite = s
	copy(h.secret[:], secret)
	return h.derive()
}

// derive makes iv and key of the secret, RFC 8446 §7.3. The first record under
// a key has number 0 (§5.3).
func (h *half) derive() error {
	iv, err := h.expand("iv", len(h.iv))
	if err != nil {
		return err
	}
	defer clear(iv)
	copy(h.iv[:], iv)
	h.seq = 0
	h.sleep()
	return h.wake()
}

// sleep gives up the key and what it expands to, which wake makes of the secret again.
func (h *half) sleep() {
	eraseAEAD(h.aead)
	h.aead = nil
}

// wake must have been called before seal and open. It does nothing to a half that is awake.
func (h *half) wake() error {
	if h.aead != nil {
		return nil
	}
	if h.suite == nil {
		return errors.New("the keys are forgotten")
	}
	key, err := h.expand("key", h.suite.keySize)
	if err != nil {
		return err
	}
	defer clear(key)
	h.aead, err = newAEAD(key)
	return err
}

// update goes on to the next generation of secret and keys, RFC 8446 §7.2.
func (h *half) update() error {
	next, err := h.expand("traffic upd", h.suite.secretSize)
	if err != nil {
		return err
	}
	defer clear(next)
	copy(h.secret[:], next)
	return h.derive()
}

// expand is HKDF-Expand-Label of the secret with an empty context, RFC 8446 §7.1.
func (h *half) expand(label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := make([]byte, 0, 32)
	info = binary.BigEndian.AppendUint16(info, uint16(size))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(h.suite.hash, h.secret[:h.suite.secretSize], string(info), size)
}

// forget leaves nothing of the keys that is ours to erase. Nobody seals or
// opens meanwhile: each direction has its lock.
func (h *half) forget() {
	clear(h.secret[:])
	clear(h.iv[:])
	clear(h.nonce[:])
	h.sleep()
	h.suite = nil // no key can be made of what is left
}

// next is the nonce of the record at hand, RFC 8446 §5.3.
func (h *half) next() []byte {
	h.nonce = h.iv
	low := h.nonce[4:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)^h.seq)
	h.seq++
	return h.nonce[:]
}

// seal protects in place the record that lies in rec: a header's room, the
// content, and a tail's room (RFC 8446 §5.2).
func (h *half) seal(rec []byte, kind byte) {
	n := len(rec) - headerSize
	rec[0] = typeApplicationData
	binary.BigEndian.PutUint16(rec[1:], version12)
	binary.BigEndian.PutUint16(rec[3:], uint16(n))
	inner := rec[headerSize : len(rec)-tagSize]
	inner[len(inner)-1] = kind
	h.aead.Seal(inner[:0], h.next(), inner, rec[:headerSize])
}

// open removes the protection of one whole record, in place.
func (h *half) open(rec []byte) (content []byte, kind byte, fault *Error) {
	inner, err := h.aead.Open(rec[headerSize:headerSize], h.next(), rec[headerSize:], rec[:headerSize])
	if err != nil {
		return nil, 0, violation(alertBadRecordMAC, "record is forged or damaged")
	}
	if len(inner) > maxPlaintext+1 { // RFC 8446 §5.4
		return nil, 0, violation(alertRecordOverflow, "record with more than 2^14 bytes")
	}
	// The last byte that is not zero is the content type, RFC 8446 §5.4.
	n := len(inner)
	for n > 0 && inner[n-1] == 0 {
		n--
	}
	if n == 0 {
		return nil, 0, violation(alertUnexpectedMessage, "record without a content type")
	}
	return inner[: n-1 : n-1], inner[n-1], nil
}
