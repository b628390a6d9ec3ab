// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	caserver "github.com/culvert-mesh/culvert/identity/server"
)

// gossip is all that programs said.
type gossip struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *gossip) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(p)
}

func (h *gossip) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

// A002-11: the real CA and a node go through what succeeds and what fails, with all that
// can be logged. No token and no key is in log, metrics or dump, in any spelling.
func TestNoSecretIsInAnyLogMetricOrDump(t *testing.T) {
	said := &gossip{}
	log := slog.New(slog.NewJSONHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := newCluster(t)
	c.placement.Replace([]caserver.Running{{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: "web"}, UID: "u"}}, nil)
	server, err := caserver.New(caserver.Config{
		CA: c.authority, Attestor: &caserver.JWKS{File: c.jwks}, Placement: c.placement, DNSNames: []string{caName}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.node.Address = ln.Addr().String()
	c.node.ServerName = caName
	client := dial(t, c.node)
	store := New(Config{TrustDomain: td, Node: "node-1", Issuer: client, Log: log})
	runUntilEnd(t, store)
	t.Cleanup(store.Hold(web))
	waitFor(t, "a certificate", func() bool { return store.Stats().Held[Valid] == 1 })
	t.Cleanup(store.Hold(db)) // which does not run there
	waitFor(t, "a refusal", func() bool { return store.Certificate(db).Error != "" })

	tokens := []string{readToken(t, c.node.TokenFile)}
	for _, spoil := range []func(map[string]any){
		func(c map[string]any) { c["aud"] = "other" },
		func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
		func(c map[string]any) { delete(c, "kubernetes.io") },
	} {
		c.project(spoil)
		tokens = append(tokens, readToken(t, c.node.TokenFile))
		if _, err := client.Check(t.Context()); err == nil {
			t.Error("a spoilt token is taken")
		} else {
			fmt.Fprintln(said, err)
		}
	}
	write(t, c.node.TokenFile, tokens[0][:len(tokens[0])-8]+"AAAAAAAA") // forged
	_, err = client.Check(t.Context())
	fmt.Fprintln(said, err)
	write(t, c.node.RootFile, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0\n-----END PRIVATE KEY-----\n") // the wrong file
	_, err = client.Check(t.Context())
	fmt.Fprintln(said, err)

	if i := strings.Index(said.text(), "eyJ"); i >= 0 { // in dumps, certificates in base64 may hold these letters
		t.Errorf("a log has a JSON Web Token: %s", said.text()[i:])
	}
	for _, path := range []string{"/metrics", "/healthz/ready"} {
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Fprintln(said, w.Body.String())
	}
	w := httptest.NewRecorder()
	server.AdminHandler().ServeHTTP(w, httptest.NewRequest("GET", "/config_dump", nil))
	fmt.Fprintln(said, w.Body.String())
	dump, err := json.Marshal(store.Dump())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(said, "%s\n%+v\n", dump, store.Stats())

	store.mu.Lock()
	key := store.entries[web].current.key.key
	der, err := x509.MarshalPKCS8PrivateKey(key)
	scalar, err2 := key.(*ecdsa.PrivateKey).Bytes()
	store.mu.Unlock()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	text := said.text()
	if !strings.Contains(text, "certificate issued") || !strings.Contains(text, "token_expired") || !strings.Contains(text, "culvert_identity_requests_total") {
		t.Fatalf("too little was said: %s", text)
	}
	//lint:ignore SA1019 what must not be in a text, in its own words
	number := fmt.Sprint(key.(*ecdsa.PrivateKey).D)
	secrets := map[string]string{
		"a JSON Web Token": "eyJhbGciOi", "a key in PEM": "PRIVATE KEY-----", "another file's key": "c2VjcmV0",
		"the key": base64.StdEncoding.EncodeToString(der)[40:80], "the key's scalar in base64": base64.RawStdEncoding.EncodeToString(scalar),
		"the key's scalar in hexadecimal": hex.EncodeToString(scalar), "the key's scalar as a number": number,
	}
	for i, token := range tokens {
		parts := strings.Split(token, ".")
		secrets[fmt.Sprintf("the signature of token %d", i)] = parts[2]
		secrets[fmt.Sprintf("the claims of token %d", i)] = parts[1]
	}
	for what, secret := range secrets {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s is said: …%s…", what, text[max(0, i-100):min(len(text), i+20)])
		}
	}
}

func readToken(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
