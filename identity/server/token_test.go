// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/culvert-mesh/culvert/identity"
)

func attestor(t testing.TB, text []byte) *JWKS {
	t.Helper()
	j := &JWKS{File: filepath.Join(t.TempDir(), "jwks.json"), Expected: Expected{Issuer: KubernetesIssuer}}
	write(t, j.File, text)
	return j
}

func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTokenOfANodesPodIsItsCaller(t *testing.T) {
	j := attestor(t, jwks(t, goodKeys()...))
	for name, token := range map[string]string{
		"ES256":          mint(t, jose.ES256, esKey, "es", tokenClaims()),
		"RS256":          mint(t, jose.RS256, rsKey, "rs", tokenClaims()),
		"without a kid":  mint(t, jose.RS256, rsKey, "", tokenClaims()),
		"one of two aud": mint(t, jose.ES256, esKey, "es", with("aud", []string{"istio-ca", Audience})),
		"aud as string":  mint(t, jose.ES256, esKey, "es", with("aud", Audience)),
	} {
		got, err := j.Attest(t.Context(), token)
		want := Caller{
			ServiceAccount: identity.ServiceAccount{Namespace: "culvert-system", Name: "ztunnel"},
			Node:           "node-1", NodeUID: "node-uid", Pod: "ztunnel-abc", PodUID: "pod-uid", TokenID: "token-1",
		}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// with are good claims but for one.
func with(name string, value any) map[string]any {
	claims := tokenClaims()
	if claims[name] = value; value == nil {
		delete(claims, name)
	}
	return claims
}

// withIn are good claims but for one within kubernetes.io.
func withIn(name string, value any) map[string]any {
	claims := tokenClaims()
	inner := claims["kubernetes.io"].(map[string]any)
	if inner[name] = value; value == nil {
		delete(inner, name)
	}
	return claims
}

func TestTokensThatProveNothing(t *testing.T) {
	now := time.Now().Unix()
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	good := goodToken(t)
	parts := strings.Split(good, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"es"}`)) + "." + parts[1] + "."
	// The classic: the public key, taken for a shared secret.
	public := must(json.Marshal(goodKeys()[0]))
	embedded := must(jwt.Signed(must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: stranger},
		(&jose.SignerOptions{EmbedJWK: true}).WithHeader("kid", "es")))).Claims(tokenClaims()).Serialize())
	critical := must(jwt.Signed(must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: esKey},
		(&jose.SignerOptions{}).WithHeader("kid", "es").WithHeader("crit", []string{"x"}).WithHeader("x", 1)))).Claims(tokenClaims()).Serialize())

	for _, test := range []struct{ name, token, want string }{
		{"empty", "", "parse token"},
		{"garbage", "a.b.c", "parse token"},
		{"not compact", `{"payload":"e30","signatures":[]}`, "parse token"},
		{"alg none", unsigned, "parse token"},
		{"HS256 with the public key", mint(t, jose.HS256, public, "es", tokenClaims()), "parse token"},
		{"RS512", mint(t, jose.RS512, rsKey, "rs", tokenClaims()), "parse token"},
		{"PS256", mint(t, jose.PS256, rsKey, "rs", tokenClaims()), "parse token"},
		{"ES384", mint(t, jose.ES384, p384, "es", tokenClaims()), "parse token"},
		{"stranger under our kid", mint(t, jose.ES256, stranger, "es", tokenClaims()), "signature"},
		{"stranger under no kid", mint(t, jose.ES256, stranger, "", tokenClaims()), "signature"},
		{"unknown kid", mint(t, jose.ES256, esKey, "other", tokenClaims()), `key "other" for ES256, which is not in the JWKS`},
		{"kid of the other algorithm", mint(t, jose.RS256, rsKey, "es", tokenClaims()), "not in the JWKS"},
		{"key in the header", embedded, "signature"},
		{"critical header", critical, "signature"},
		{"payload changed", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + "." + parts[2], "signature"},
		{"signature cut", good[:len(good)-4], "signature"},
		{"exp is a word", mint(t, jose.ES256, esKey, "es", with("exp", "soon")), "claims"},

		{"wrong aud", mint(t, jose.ES256, esKey, "es", with("aud", "istio-ca")), `audience ["istio-ca"]`},
		{"no aud", mint(t, jose.ES256, esKey, "es", with("aud", nil)), "audience"},
		{"expired", mint(t, jose.ES256, esKey, "es", with("exp", now-31)), "expired"},
		{"no exp", mint(t, jose.ES256, esKey, "es", with("exp", nil)), "never expires"},
		{"nbf in the future", mint(t, jose.ES256, esKey, "es", with("nbf", now+120)), "not valid before"},
		{"iat in the future", mint(t, jose.ES256, esKey, "es", with("iat", now+120)), "in the future"},

		{"no kubernetes.io", mint(t, jose.ES256, esKey, "es", with("kubernetes.io", nil)), "kubernetes.io"},
		{"no namespace", mint(t, jose.ES256, esKey, "es", withIn("namespace", nil)), "kubernetes.io"},
		{"odd namespace", mint(t, jose.ES256, esKey, "es", withIn("namespace", "a/b")), "kubernetes.io"},
		{"no ServiceAccount", mint(t, jose.ES256, esKey, "es", withIn("serviceaccount", nil)), "kubernetes.io"},
		{"no node", mint(t, jose.ES256, esKey, "es", withIn("node", nil)), "kubernetes.io.node.name"},
		{"node without a name", mint(t, jose.ES256, esKey, "es", withIn("node", map[string]any{"uid": "x"})), "kubernetes.io.node.name"},
		{"node is a string", mint(t, jose.ES256, esKey, "es", withIn("node", "node-1")), "claims"},
		{"subject of somebody else", mint(t, jose.ES256, esKey, "es", with("sub", "system:serviceaccount:shop:web")), "subject"},
		{"no subject", mint(t, jose.ES256, esKey, "es", with("sub", nil)), "subject"},
		{"no iss", mint(t, jose.ES256, esKey, "es", with("iss", nil)), "names no issuer"},
		{"iss of another cluster", mint(t, jose.ES256, esKey, "es", with("iss", "https://elsewhere")), `issuer is "https://elsewhere", want "https://kubernetes`},
		{"iss that only begins like it", mint(t, jose.ES256, esKey, "es", with("iss", KubernetesIssuer+"/")), "want"},
		{"no iat", mint(t, jose.ES256, esKey, "es", with("iat", nil)), "(iat)"},
		{"valid for more than a day", mint(t, jose.ES256, esKey, "es", with("exp", now+86400+60)), "longer than 24h"},
		{"issued before there were tokens", mint(t, jose.ES256, esKey, "es", with("iat", -int64(1)<<62)), "claims"},
		{"valid for ever", mint(t, jose.ES256, esKey, "es", with("exp", int64(1)<<40)), "longer than 24h"},
		{"node without a UID", mint(t, jose.ES256, esKey, "es", withIn("node", map[string]any{"name": "node-1"})), "kubernetes.io.node.uid"},
		{"pod without a UID", mint(t, jose.ES256, esKey, "es", withIn("pod", map[string]any{"name": "ztunnel-abc"})), "kubernetes.io.pod"},
		{"UID without a pod", mint(t, jose.ES256, esKey, "es", withIn("pod", map[string]any{"uid": "pod-uid"})), "kubernetes.io.pod"},
	} {
		t.Run(test.name, func(t *testing.T) {
			caller, err := attestor(t, jwks(t, goodKeys()...)).Attest(t.Context(), test.token)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
			if errors.Is(err, ErrUnavailable) {
				t.Errorf("%v: our fault?", err)
			}
			if caller != (Caller{}) {
				t.Errorf("refused, yet it is %+v", caller)
			}
		})
	}
}

// SPIRE 1.12.3 did not enforce the expiry of tokens.
func TestTokenEndsAndBeginsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := attestor(t, jwks(t, goodKeys()...))
		claims := tokenClaims()
		start := time.Now().Unix()
		claims["nbf"], claims["iat"], claims["exp"] = start+60, start+60, start+120
		token := mint(t, jose.ES256, esKey, "es", claims)
		for _, want := range []bool{false, true, true, true, true, false} { // at 0, 30, 60, 90, 120, 150 s
			if _, err := j.Attest(t.Context(), token); (err == nil) != want {
				t.Errorf("after %v s: %v", time.Now().Unix()-start, err)
			}
			time.Sleep(30 * time.Second) // bubble time
		}
	})
}

func TestAudienceIsConfigurable(t *testing.T) {
	j := attestor(t, jwks(t, goodKeys()...))
	j.Expected.Audience = "istio-ca"
	if _, err := j.Attest(t.Context(), goodToken(t)); err == nil {
		t.Error("accepted another audience")
	}
	if _, err := j.Attest(t.Context(), mint(t, jose.ES256, esKey, "es", with("aud", "istio-ca"))); err != nil {
		t.Error(err)
	}
}

// CVE-2026-31837: a file that cannot be read admits nobody.
func TestKeysAreThoseOfTheFileAsItIsNow(t *testing.T) {
	keys := goodKeys()
	j := attestor(t, jwks(t, keys[1]))
	token := goodToken(t)
	if _, err := j.Attest(t.Context(), token); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("signed by a key that is not there: %v", err)
	}
	write(t, j.File, jwks(t, keys...))
	if _, err := j.Attest(t.Context(), token); err != nil {
		t.Errorf("after the key was added: %v", err)
	}
	write(t, j.File, []byte("{"))
	if _, err := j.Attest(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the file is broken: %v", err)
	}
	write(t, j.File, jwks(t, keys...))
	if _, err := j.Attest(t.Context(), token); err != nil {
		t.Errorf("after the file was mended: %v", err)
	}
	if err := os.Remove(j.File); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Attest(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the file is gone: %v", err)
	}
}

// CVE-2026-31837: there are no keys to fall back to, and private ones are refused.
func TestJWKSHoldsPublicKeysThatSign(t *testing.T) {
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	good := goodKeys()
	for _, test := range []struct {
		name string
		text []byte
		keys int
		want string
	}{
		{"good", jwks(t, good...), 2, ""},
		{"others are passed over", jwks(t, good[0], jose.JSONWebKey{Key: edPublic, KeyID: "ed"}, jose.JSONWebKey{Key: &p384.PublicKey}), 1, ""},
		{"an unknown kind is passed over", []byte(`{"keys":[{"kty":"NEW","x":"AAAA"},` + string(must(json.Marshal(good[0]))) + `]}`), 1, ""},
		{"encryption keys are passed over", jwks(t, good[0], jose.JSONWebKey{Key: &rsKey.PublicKey, Use: "enc"}), 1, ""},
		{"private", jwks(t, good[0], jose.JSONWebKey{Key: esKey}), 0, "key 1 is private"},
		{"symmetric", jwks(t, good[0], jose.JSONWebKey{Key: []byte("secret")}), 0, "key 1 is private"},
		{"only others", jwks(t, jose.JSONWebKey{Key: edPublic}), 0, "no key"},
		{"none", []byte(`{"keys":[]}`), 0, "no key"},
		{"no set", []byte(`[]`), 0, `it is JSON, but no JWKS (a JWKS is {"keys": [...]})`},
		{"no list", []byte(`{"keys":1}`), 0, "it is JSON, but no JWKS (a JWKS is"},
		{"empty", nil, 0, `it is no JSON (a JWKS is {"keys": [...]})`},
		{"text", []byte("root:x:0:0"), 0, "it is no JSON (a JWKS is"},
		{"half", []byte(`{"keys":[`), 0, "it is no JSON (a JWKS is"},
		{"broken key", []byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`), 0, "key 0"},
	} {
		keys, err := parseJWKS(test.text)
		if len(keys) != test.keys || (err == nil) != (test.want == "") {
			t.Errorf("%s: %d keys, %v", test.name, len(keys), err)
		}
		if err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v does not say %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the key", test.name)
		}
	}
	if algorithm(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), minRSABits-2), E: 65537}) != "" {
		t.Error("a short RSA key signs tokens")
	}
	j := attestor(t, []byte(strings.Repeat(" ", maxJWKS+1)))
	if _, err := j.load(); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("a huge file: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(goodToken(f))
	f.Add("a.b.c")
	f.Add(mint(f, jose.RS256, rsKey, "rs", with("kubernetes.io", nil)))
	keys, err := parseJWKS(jwks(f, goodKeys()...))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := verify(token, keys)
		if err != nil {
			return
		}
		if caller, err := c.caller(Expected{}.withDefaults()); err == nil && (caller.Node == "" || caller.NodeUID == "") {
			t.Fatal("a caller without a node")
		}
	})
}

func FuzzJWKS(f *testing.F) {
	f.Add(jwks(f, goodKeys()...))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseJWKS(text)
		if err == nil && len(keys) == 0 {
			t.Fatal("no key, no error")
		}
	})
}

// A001-3: what another pod's token proves of its node, the pod that is there disproves.
func TestATokenIsOfThePodThatSpeaksForTheNode(t *testing.T) {
	j := attestor(t, jwks(t, goodKeys()...))
	j.Placement = NewPlacement()
	for _, test := range []struct {
		name   string
		agents []Agent
		want   string
	}{
		{"the source knows of no such pod", nil, ""},
		{"of none on this node", []Agent{{UID: "other", Node: "node-2"}}, ""},
		{"of the token's", []Agent{agent, {UID: "other", Node: "node-1"}}, ""},
		{"of another", []Agent{{UID: "other", Name: "ztunnel-xyz", Node: "node-1"}}, "of UID pod-uid, is gone; ztunnel-xyz of UID other speaks for node node-1"},
		{"of one that only has the ServiceAccount", []Agent{{UID: "other", Node: "node-1", Foreign: "it is of no DaemonSet"}}, ""},
		{"of the token's, which only has the ServiceAccount", []Agent{{UID: "pod-uid", Name: "ztunnel-abc", ServiceAccount: ztunnel, Node: "node-1", Foreign: "it is of no DaemonSet"}},
			"does not speak for its node: it is of no DaemonSet"},
		{"of the token's, elsewhere", []Agent{{UID: "pod-uid", Name: "ztunnel-abc", ServiceAccount: ztunnel, Node: "node-2"}}, "runs on node node-2"},
	} {
		j.Placement.Replace(nil, test.agents)
		_, err := j.Attest(t.Context(), goodToken(t))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A pipe in the place of the file would make each request wait.
func TestAJWKSThatIsNoFileAdmitsNobodyAtOnce(t *testing.T) {
	j := &JWKS{File: filepath.Join(t.TempDir(), "jwks.json")}
	if err := syscall.Mkfifo(j.File, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Attest(t.Context(), goodToken(t)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}
