// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Pauses between attempts. A signer that does not answer is asked by one at a time, once
// in a while: whoever asks in between has its last answer at once.
const (
	askAgain   = time.Second      // of one in trouble
	checkEvery = 10 * time.Second // of one that nobody had a signature of
)

// Sign is part of crypto.Signer. It waits for five seconds at most, and returns no signature
// that does not verify: of a signer that is asked all the time, nothing else shows it.
func (k *Key) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := k.begin(); err != nil {
		return nil, err
	}
	signature, err := k.proved(message, opts)
	k.end(err)
	return signature, err
}

// proved has the signer sign once, and verifies the signature.
func (k *Key) proved(message []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.ask(message, opts)
	if err != nil {
		return nil, err
	}
	if !k.verifies(message, opts, signature) {
		return nil, fmt.Errorf("%s: %w: its signature does not verify under the key %s", k, ErrOtherKey, fingerprint(k.spki))
	}
	return signature, nil
}

func (k *Key) verifies(message []byte, opts crypto.SignerOpts, signature []byte) bool {
	var hash crypto.Hash
	if opts != nil {
		hash = opts.HashFunc()
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, message, signature)
	case *rsa.PublicKey:
		if salt := saltOf(opts); salt != 0 {
			return rsa.VerifyPSS(public, hash, message, signature, &rsa.PSSOptions{SaltLength: salt}) == nil
		}
		return rsa.VerifyPKCS1v15(public, hash, message, signature) == nil
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(public, message, signature, &ed25519.Options{Hash: hash}) == nil
	}
	return false
}

// saltOf is the salt's length that is asked for, or 0: not RSA-PSS.
func saltOf(opts crypto.SignerOpts) int {
	pss, ok := opts.(*rsa.PSSOptions)
	if ok && pss.SaltLength == rsa.PSSSaltLengthAuto {
		return rsa.PSSSaltLengthEqualsHash
	}
	if !ok {
		return 0
	}
	return pss.SaltLength
}

// ask has the signer sign once.
func (k *Key) ask(message []byte, opts crypto.SignerOpts) ([]byte, error) {
	q := question{Key: fingerprint(k.spki), Message: message, Salt: saltOf(opts)}
	if opts != nil && opts.HashFunc() != 0 {
		q.Hash = opts.HashFunc().String()
	}
	got, err := exchange(context.Background(), k.path, http.MethodPost, signPath, &q)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k, err)
	}
	return got.Signature, nil
}

// begin reports whether the signer is to be asked; if not, why not.
func (k *Key) begin() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.trouble != nil && (k.asking > 0 || time.Since(k.asked) < askAgain) {
		return k.trouble
	}
	k.asking++
	k.asked = time.Now()
	return nil
}

// end notes what came of an attempt.
func (k *Key) end(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asking--
	k.trouble = err
	if err != nil {
		k.asked = time.Now() // the pause begins now: it may have taken all of answerIn
	}
	switch {
	case err == nil:
		k.counts.Signed++
	case errors.Is(err, ErrAway):
		k.counts.Away++
	default:
		k.counts.Wrong++
	}
}

// Check has the signer sign what is of no use to anybody, and verifies it.
func (k *Key) Check() error {
	if err := k.begin(); err != nil {
		return err
	}
	err := k.prove()
	k.end(err)
	return err
}

// probe is no certificate, and no digest of one.
var probe = []byte("culvert: is this signer's key the one that it was?")

func (k *Key) prove() error {
	message, opts := probe, crypto.Hash(0)
	switch k.public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		digest := sha256.Sum256(probe)
		message, opts = digest[:], crypto.SHA256
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("%s: a key of the type %T is not supported, want ECDSA, RSA or Ed25519", k, k.public)
	}
	_, err := k.proved(message, opts)
	return err
}

// Watch is called now and then, and asks the signer if nobody else has for some time. It
// returns why the signer cannot sign, or nil.
func (k *Key) Watch() error {
	k.mu.Lock()
	idle := time.Since(k.asked)
	trouble := k.trouble
	k.mu.Unlock()
	if trouble != nil && idle >= askAgain || idle >= checkEvery {
		return k.Check()
	}
	return trouble
}

// Trouble is what the last attempt came to: nil if that was a signature, or if there was
// none yet.
func (k *Key) Trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}
