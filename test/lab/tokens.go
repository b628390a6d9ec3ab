// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	keyID  = "lab"
	issuer = "https://kubernetes.default.svc.cluster.local"

	systemNamespace = "culvert-system"
	systemAccount   = "ztunnel"
	caName          = "culvert-identity"
)

// tokens stands for the API server as the issuer of projected tokens.
type tokens struct {
	ttl    time.Duration
	key    *ecdsa.PrivateKey
	signer jose.Signer
	quit   chan struct{}
	once   sync.Once
}

func newTokens(ttl time.Duration) (*tokens, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signing := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}
	signer, err := jose.NewSigner(signing, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	return &tokens{ttl: ttl, key: key, signer: signer, quit: make(chan struct{})}, nil
}

// jwks is the set of keys that the CA is given.
func (t *tokens) jwks() ([]byte, error) {
	key := jose.JSONWebKey{Key: t.key.Public(), KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"}
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}})
}

// Token mints a token as the kubelet of a node projects it into ztunnel's pod.
// change, if not nil, may spoil the claims before they are signed.
func (l *Lab) Token(node string, change func(claims map[string]any)) (string, error) {
	if l.tokens == nil {
		return "", fmt.Errorf("mint a token for %s: the lab is unmeshed", node)
	}
	now := time.Now()
	claims := map[string]any{
		"iss": issuer,
		"sub": "system:serviceaccount:" + systemNamespace + ":" + systemAccount,
		"aud": []string{caName},
		"iat": now.Unix(),
		"nbf": now.Unix(),
		"exp": now.Add(l.tokens.ttl).Unix(),
		"jti": newUID(),
		"kubernetes.io": map[string]any{
			"namespace":      systemNamespace,
			"node":           map[string]string{"name": node, "uid": stableUID("node", node)},
			"pod":            map[string]string{"name": "ztunnel-" + node, "uid": stableUID("ztunnel", node)},
			"serviceaccount": map[string]string{"name": systemAccount, "uid": stableUID("serviceaccount", systemAccount)},
		},
	}
	if change != nil {
		claims = maps.Clone(claims)
		change(claims)
	}
	return jwt.Signed(l.tokens.signer).Claims(claims).Serialize()
}

// project writes the node's token, and a new one whenever half its life is over.
func (l *Lab) project(node, path string) error {
	write := func() error {
		token, err := l.Token(node, nil)
		if err != nil {
			return err
		}
		return writeAtomic(path, []byte(token))
	}
	if err := write(); err != nil {
		return err
	}
	go func() {
		tick := time.NewTicker(max(l.tokens.ttl/2, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = write() // fails only when the run's directory is gone
			case <-l.tokens.quit:
				return
			}
		}
	}()
	return nil
}

func (t *tokens) stop() { t.once.Do(func() { close(t.quit) }) }
