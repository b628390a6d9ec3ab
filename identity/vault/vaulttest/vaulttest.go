// SPDX-License-Identifier: Apache-2.0

// Package vaulttest answers as Vault's API does where a CA asks it: by Vault's documentation,
// and by the source of its PKI engine (1.21). It is not Vault: that is Real.
package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Token is what Vault takes, and JWT what it gives one for to the role of Role.
const (
	Token = "hvs.test-token"
	JWT   = "jwt.of-culvert-identity"
	Role  = "culvert"
)

// Vault is a server with a PKI engine at pki.
type Vault struct {
	URL string
	CA  string // file of the root that vouches for the server

	mu     sync.Mutex // guards what follows
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	sealed bool
	max    time.Duration
	back   time.Duration
	logins int // whose tokens are not revoked
}

// Serve runs a Vault until the test ends.
func Serve(t testing.TB) *Vault {
	t.Helper()
	v := &Vault{max: 365 * 24 * time.Hour, back: 30 * time.Second}
	v.NewRoot(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/auth/kubernetes/login", v.login)
	mux.HandleFunc("POST /v1/auth/token/revoke-self", v.revoke)
	mux.HandleFunc("GET /v1/pki/ca_chain", v.chain)
	mux.HandleFunc("POST /v1/pki/root/sign-intermediate", v.sign)
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	v.URL, v.CA = server.URL, filepath.Join(t.TempDir(), "vault-ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(v.CA, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

// NewRoot has Vault sign by another root from now on, and returns it.
func (v *Vault) NewRoot(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: fmt.Sprintf("vault root %x", n.Bytes()[:4])},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.root, v.key = root, key
	return root
}

// Seal has Vault refuse all, or end that.
func (v *Vault) Seal(sealed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sealed = sealed
}

// MaxTTL bounds what Vault signs from now on.
func (v *Vault) MaxTTL(ttl time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.max = ttl
}

// Backdate is how long ago what Vault signs from now on began to hold.
func (v *Vault) Backdate(by time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.back = by
}

func (v *Vault) refused(w http.ResponseWriter) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sealed {
		fail(w, http.StatusServiceUnavailable, "Vault is sealed")
	}
	return v.sealed
}

func fail(w http.ResponseWriter, status int, problem string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []string{problem}})
}

func (v *Vault) login(w http.ResponseWriter, r *http.Request) {
	var q struct{ Role, JWT string }
	if v.refused(w) {
		return
	}
	if json.NewDecoder(r.Body).Decode(&q) != nil || q.Role != Role || q.JWT != JWT {
		fail(w, http.StatusForbidden, "permission denied")
		return
	}
	v.mu.Lock()
	v.logins++
	v.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": Token, "lease_duration": 3600}})
}

func (v *Vault) revoke(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Vault-Token") != Token {
		fail(w, http.StatusForbidden, "permission denied")
		return
	}
	v.mu.Lock()
	v.logins--
	v.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// Logins are those whose tokens were not revoked; less than none, if others were.
func (v *Vault) Logins() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

func (v *Vault) chain(w http.ResponseWriter, _ *http.Request) {
	if v.refused(w) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Content-Type", "application/pkix-cert")
	pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: v.root.Raw})
}

func (v *Vault) sign(w http.ResponseWriter, r *http.Request) {
	var q struct {
		CSR    string `json:"csr"`
		Name   string `json:"common_name"`
		URI    string `json:"uri_sans"`
		TTL    string `json:"ttl"`
		Length int    `json:"max_path_length"`
	}
	switch {
	case v.refused(w):
		return
	case r.Header.Get("X-Vault-Token") != Token:
		fail(w, http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	case json.NewDecoder(r.Body).Decode(&q) != nil:
		fail(w, http.StatusBadRequest, "failed to parse JSON input")
		return
	}
	cert, err := v.issue(q.CSR, q.Name, q.URI, q.TTL, q.Length)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	root := encode(v.root.Raw)
	json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
		"certificate": encode(cert), "issuing_ca": root, "ca_chain": []string{encode(cert), root},
	}})
}

func encode(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (v *Vault) issue(csr, name, uri, ttl string, length int) ([]byte, error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return nil, fmt.Errorf("csr contains no data")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		return nil, fmt.Errorf("request signature invalid")
	}
	san, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	life, err := time.ParseDuration(ttl)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{san},
		NotBefore: time.Now().Add(-v.back), NotAfter: time.Now().Add(min(life, v.max)),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		MaxPathLen: length, MaxPathLenZero: length == 0,
	}, v.root, request.PublicKey, v.key)
}
