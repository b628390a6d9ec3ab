// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	caserver "github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/test/env"
)

// cluster is culvert-identity at the other end of a socket, and the files of a
// node that asks it.
type cluster struct {
	t         *testing.T
	key       *ecdsa.PrivateKey // signs tokens
	jwks      string
	authority *ca.CA
	placement *caserver.Placement
	node      ClientConfig
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, key: newKey(t), jwks: filepath.Join(t.TempDir(), "jwks.json"), authority: newCA(t, td), placement: caserver.NewPlacement()}
	c.trust("key-1", c.key)
	c.placement.Replace(nil, nil)
	c.node = files(t, c.authority)
	c.project(nil)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// trust has the CA take tokens of key.
func (c *cluster) trust(id string, key *ecdsa.PrivateKey) {
	c.t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: id, Use: "sig"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	write(c.t, c.jwks, string(text))
}

// project writes a token as the kubelet of node-1 would, which change may spoil.
func (c *cluster) project(change func(claims map[string]any)) {
	c.t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": caserver.KubernetesIssuer, "sub": "system:serviceaccount:culvert-system:ztunnel",
		"aud": []string{caserver.Audience}, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "culvert-system", "node": map[string]any{"name": "node-1", "uid": "n-1"}, "pod": map[string]any{"name": "ztunnel-1", "uid": "u-z"},
			"serviceaccount": map[string]any{"name": "ztunnel"},
		},
	}
	if change != nil {
		change(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: c.key, KeyID: "key-1"}}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		c.t.Fatal(err)
	}
	write(c.t, c.node.TokenFile, token)
}

// start serves until the end of the test, or until stop.
func (c *cluster) start(addr string, names ...string) (stop func()) {
	c.t.Helper()
	s, err := caserver.New(caserver.Config{
		CA: c.authority, Attestor: &caserver.JWKS{File: c.jwks}, Placement: c.placement, DNSNames: names, Log: quiet,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.node.Address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(stop)
	return stop
}

// run is the node's Store.
func (c *cluster) run(domain spiffeid.TrustDomain, name string) *Store {
	c.t.Helper()
	store := New(Config{TrustDomain: domain, Node: name, Issuer: dial(c.t, c.node), Log: slog.New(slog.NewTextHandler(c.t.Output(), nil))})
	runUntilEnd(c.t, store)
	return store
}

// eventually waits until the CA's word of the node is that, and returns its sentence.
func eventually(t *testing.T, s *Store, want Reason) string {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		got := s.Standing()
		if got.Reason == want {
			if want == Signs != got.Ready {
				t.Errorf("%+v", got)
			}
			return got.Problem
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%+v, want %s", got, want)
		}
	}
}

func TestReadinessIsTheCAsWord(t *testing.T) {
	change := func(name string, value any) func(map[string]any) {
		return func(claims map[string]any) { claims[name] = value }
	}
	inside := func(name string, value any) func(map[string]any) {
		return func(claims map[string]any) { claims["kubernetes.io"].(map[string]any)[name] = value }
	}
	expiry := time.Now().Add(-time.Hour)
	stranger := newCA(t, td)
	for _, test := range []struct {
		name   string
		spoil  func(c *cluster)
		reason Reason
		says   func(c *cluster) []string
		mend   func(c *cluster)
	}{
		{"no token", func(c *cluster) { remove(c.t, c.node.TokenFile) }, TokenFile,
			func(c *cluster) []string { return []string{c.node.TokenFile, "no such file"} },
			func(c *cluster) { c.project(nil) }},
		{"empty token", func(c *cluster) { write(c.t, c.node.TokenFile, "\n") }, TokenFile,
			func(c *cluster) []string { return []string{c.node.TokenFile, "empty"} },
			func(c *cluster) { c.project(nil) }},
		{"no root", func(c *cluster) { remove(c.t, c.node.RootFile) }, RootFile,
			func(c *cluster) []string { return []string{c.node.RootFile, "no such file"} },
			func(c *cluster) { write(c.t, c.node.RootFile, text(c.authority.Roots()...)) }},
		{"another root", func(c *cluster) { write(c.t, c.node.RootFile, text(stranger.Roots()...)) }, CACertificate,
			func(c *cluster) []string { return []string{c.node.Address, c.node.RootFile, "vouches"} },
			func(c *cluster) { write(c.t, c.node.RootFile, text(c.authority.Roots()...)) }},
		{"garbage", func(c *cluster) { write(c.t, c.node.TokenFile, "x") }, "token_malformed",
			func(c *cluster) []string { return []string{c.node.Address, c.node.TokenFile, "parse token"} },
			func(c *cluster) { c.project(nil) }},
		{"expired", func(c *cluster) { c.project(change("exp", expiry.Unix())) }, "token_expired",
			func(c *cluster) []string {
				return []string{c.node.Address, c.node.TokenFile, expiry.UTC().Format(time.RFC3339)}
			},
			func(c *cluster) { c.project(nil) }},
		{"another audience", func(c *cluster) { c.project(change("aud", "istio-ca")) }, "token_audience_wrong",
			func(c *cluster) []string {
				return []string{c.node.TokenFile, `["istio-ca"], want "culvert-identity"`}
			},
			func(c *cluster) { c.project(nil) }},
		{"a key that the CA does not know", func(c *cluster) { c.trust("key-2", newKey(c.t)) }, "token_key_unknown",
			func(c *cluster) []string { return []string{c.node.TokenFile, `the key "key-1"`} },
			func(c *cluster) { c.trust("key-1", c.key) }},
		{"forged", func(c *cluster) { c.trust("key-1", newKey(c.t)) }, "token_signature_wrong",
			func(c *cluster) []string { return []string{c.node.TokenFile, "signature"} },
			func(c *cluster) { c.trust("key-1", c.key) }},
		{"an app's token", func(c *cluster) {
			c.project(func(claims map[string]any) {
				claims["sub"] = "system:serviceaccount:culvert-system:web"
				inside("serviceaccount", map[string]any{"name": "web"})(claims)
			})
		}, accountNotTrusted,
			func(c *cluster) []string { return []string{c.node.TokenFile, "culvert-system/web"} },
			func(c *cluster) { c.project(nil) }},
		{"another node's token", func(c *cluster) { c.project(inside("node", map[string]any{"name": "node-2", "uid": "n-2"})) }, NodeName,
			func(c *cluster) []string { return []string{`"node-2"`, `"node-1"`} },
			func(c *cluster) { c.project(nil) }},
		{"a CA that starts", func(c *cluster) { c.placement = caserver.NewPlacement() }, caNotReady,
			func(c *cluster) []string { return []string{c.node.Address, "what runs where"} },
			func(c *cluster) { c.placement.Replace(nil, nil) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			test.spoil(c)
			c.start("127.0.0.1:0", caName)
			s := c.run(td, "node-1")
			sentence := eventually(t, s, test.reason)
			for _, want := range test.says(c) {
				if !strings.Contains(sentence, want) {
					t.Errorf("%q does not say %q", sentence, want)
				}
			}
			if strings.Contains(sentence, "\n") || strings.Contains(sentence, "rpc error") {
				t.Errorf("%q is no sentence", sentence)
			}
			test.mend(c)
			eventually(t, s, Signs)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestCAOfAnotherNameDoesNotMakeTheNodeReady(t *testing.T) {
	c := newCluster(t)
	stop := c.start(env.Address(t), "other.svc")
	s := c.run(td, "node-1")
	if sentence := eventually(t, s, CAName); !strings.Contains(sentence, "other.svc, not for "+caName) {
		t.Errorf("%s", sentence)
	}
	stop()
	c.start(c.node.Address, caName)
	eventually(t, s, Signs)
}

func TestCAOfAnotherTrustDomainDoesNotMakeTheNodeReady(t *testing.T) {
	c := newCluster(t)
	c.start("127.0.0.1:0", caName)
	s := c.run(spiffeid.RequireTrustDomainFromString("elsewhere"), "node-1")
	if sentence := eventually(t, s, TrustDomain); !strings.Contains(sentence, `"cluster.local", and this node is of "elsewhere"`) {
		t.Errorf("%s", sentence)
	}
}

// A000-8: "no error so far" is not ready; the reason is said.
func TestCAThatIsAwayDoesNotMakeTheNodeReady(t *testing.T) {
	c := newCluster(t)
	c.node.Address = env.Address(t)
	s := c.run(td, "node-1")
	if sentence := eventually(t, s, Unreachable); !strings.Contains(sentence, c.node.Address) || !strings.Contains(sentence, "refused") {
		t.Errorf("%s", sentence)
	}
	c.start(c.node.Address, caName)
	eventually(t, s, Signs)
}

// What answers, but in plaintext, is no CA.
func TestPortThatSpeaksNoTLSIsNoCA(t *testing.T) {
	c := newCluster(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	c.node.Address = ln.Addr().String()
	if sentence := eventually(t, c.run(td, "node-1"), Unreachable); !strings.Contains(sentence, c.node.Address) {
		t.Errorf("%s", sentence)
	}
}

// istiod has no Check, and one code for two refusals: it is asked to sign for
// the caller itself.
func TestCAWithoutCheckIsAskedToSign(t *testing.T) {
	w := &wire{ca: newCA(t, td), err: status.Error(codes.Unauthenticated, "request authenticate failure")}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	s := New(Config{TrustDomain: td, Node: "node-1", Issuer: dial(t, cfg), Log: quiet})
	runUntilEnd(t, s)
	if sentence := eventually(t, s, Refused); !strings.Contains(sentence, cfg.TokenFile) || !strings.Contains(sentence, "authenticate") {
		t.Errorf("%s", sentence)
	}
	w.mu.Lock()
	if got := w.request.GetMetadata().GetFields(); len(got) != 0 {
		t.Errorf("it is asked for %v", maps.Collect(maps.All(got)))
	}
	w.err = nil
	w.self = spiffeid.RequireFromString("spiffe://elsewhere/ns/istio-system/sa/ztunnel")
	w.ca = newCA(t, w.self.TrustDomain())
	w.mu.Unlock()
	if sentence := eventually(t, s, TrustDomain); !strings.Contains(sentence, "elsewhere") {
		t.Errorf("%s", sentence)
	}
	w.mu.Lock()
	w.err = status.Error(codes.PermissionDenied, "not for yourself")
	w.mu.Unlock()
	eventually(t, s, Signs)
}

func TestCAWithoutCheckThatHasSignedIsNotAskedAgain(t *testing.T) {
	w := &wire{ca: newCA(t, td), self: spiffeid.RequireFromString("spiffe://cluster.local/ns/istio-system/sa/ztunnel")}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	c := dial(t, cfg)
	want := func(requests int, when string) {
		t.Helper()
		answer, err := c.Check(soon(t))
		if err != nil || answer.TrustDomain != "cluster.local" {
			t.Errorf("%s: %+v, %v", when, answer, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := len(w.tokens); got != requests {
			t.Errorf("%s: %d requests, want %d", when, got, requests)
		}
	}
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	want(2, "its trust domain is not known yet, whatever it signed")
	want(2, "it has signed since it was started")
	want(3, "it has signed nothing since")
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	want(4, "it has signed for a pod since")
}

func TestFilesThatNeverEndAreRefused(t *testing.T) {
	c := newCluster(t)
	c.start("127.0.0.1:0", caName)
	remove(t, c.node.TokenFile)
	if err := syscall.Mkfifo(c.node.TokenFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if sentence := eventually(t, c.run(td, "node-1"), TokenFile); !strings.Contains(sentence, "regular") {
		t.Errorf("%s", sentence)
	}
}
