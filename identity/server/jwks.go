// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/go-jose/go-jose/v4"

	"github.com/culvert-mesh/culvert/regular"
)

// Audience is what a node's token must be made for, unless said otherwise.
const Audience = "culvert-identity"

const (
	maxJWKS    = 1 << 20
	minRSABits = 2048
)

// JWKS is the Attestor for tokens shaped like those that Kubernetes projects
// into a pod, signed by a key of a JWKS file.
type JWKS struct {
	File      string     // read again for each token; required
	Expected  Expected   // what a token must say; its defaults
	Placement *Placement // knows the pods that speak for nodes, if there are any in its source; none

	mu   sync.Mutex // guards what follows
	text []byte     // what keys was parsed from
	keys []jose.JSONWebKey
}

// Check reports what is wrong with the file, so that a start can be refused.
func (j *JWKS) Check() error {
	_, err := j.load()
	return err
}

// Attest verifies the token's signature, its times, its audience, and reads
// the caller out of it.
func (j *JWKS) Attest(ctx context.Context, token string) (Caller, error) {
	keys, err := j.load()
	if err != nil {
		return Caller{}, fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	claims, err := verify(token, keys)
	if err != nil {
		return Caller{}, err
	}
	caller, err := claims.caller(j.Expected.withDefaults())
	if err != nil || j.Placement == nil {
		return caller, err
	}
	if err := j.Placement.alive(ctx, caller); err != nil {
		return Caller{}, err
	}
	return caller, nil
}

// load returns the file's keys. A file that cannot be read or parsed admits
// nobody, since a key that stood in it before may have been taken out.
func (j *JWKS) load() ([]jose.JSONWebKey, error) {
	text, err := regular.ReadFile(j.File, maxJWKS)
	if err != nil {
		return nil, fmt.Errorf("read JWKS: %v", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.keys != nil && bytes.Equal(text, j.text) {
		return j.keys, nil
	}
	j.keys, err = parseJWKS(text)
	if err != nil {
		return nil, fmt.Errorf("JWKS %s: %v", j.File, err)
	}
	j.text = text
	return j.keys, nil
}

// parseJWKS returns the keys that can sign a token. Others, say for
// encryption or of a kind that we do not take, may stand in the file; a
// private or symmetric one may not, for whoever reads the file could forge.
func parseJWKS(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	const shape = `a JWKS is {"keys": [...]}`
	if !json.Valid(text) {
		return nil, errors.New("it is no JSON (" + shape + ")")
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("it is JSON, but no JWKS (" + shape + ")")
	}
	var keys []jose.JSONWebKey
	for i, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(raw); err != nil {
			if errors.Is(err, jose.ErrUnsupportedKeyType) {
				continue
			}
			return nil, fmt.Errorf("key %d: %v", i, err)
		}
		if !key.IsPublic() {
			return nil, fmt.Errorf("key %d is private or symmetric: only public keys belong here", i)
		}
		if key.Use != "" && key.Use != "sig" || algorithm(key.Key) == "" {
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key for ES256 or RS256")
	}
	return keys, nil
}

// algorithm is the one that a key is for, or "".
func algorithm(key any) jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return jose.ES256
		}
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			return jose.RS256
		}
	}
	return ""
}
