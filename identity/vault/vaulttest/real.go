// SPDX-License-Identifier: Apache-2.0

package vaulttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// Real is HashiCorp Vault itself, as its operator has it: initialized, and sealed whenever it
// was started.
type Real struct {
	URL, CA string // as of Vault
	Root    string // token that may all

	t        testing.TB
	args     []string
	key      string // that unseals it
	client   *http.Client
	log      bytes.Buffer
	stopping func()
}

// Start runs the program that VAULT_PROGRAM names until the test ends, unsealed. It skips the
// test if there is none.
func Start(t testing.TB) *Real {
	t.Helper()
	program := os.Getenv("VAULT_PROGRAM")
	if program == "" {
		t.Skip("set VAULT_PROGRAM to a server of Vault's that test/kubernetes built")
	}
	dir, address := t.TempDir(), env.Address(t)
	v := &Real{URL: "https://" + address, CA: filepath.Join(dir, "cert.pem"), t: t}
	key := filepath.Join(dir, "key.pem")
	roots := x509.NewCertPool()
	roots.AddCert(pair(t, address, v.CA, key))
	v.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	v.args = []string{program, "-storage", filepath.Join(dir, "storage"), "-listen", address, "-cert", v.CA, "-key", key}
	t.Cleanup(func() {
		v.Kill()
		if t.Failed() {
			t.Logf("Vault said:\n%s", v.log.Bytes())
		}
	})
	v.Restart()
	var made struct {
		Keys []string `json:"keys"`
		Root string   `json:"root_token"`
	}
	v.Ask(&made, http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1})
	v.key, v.Root = made.Keys[0], made.Root
	v.Unseal()
	return v
}

// pair makes a key and a certificate for an address, which vouches for itself.
func pair(t testing.TB, address, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vault"}, IPAddresses: []net.IP{net.IP(netip.MustParseAddrPort(address).Addr().AsSlice())},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Kill ends it as a machine that loses its power does.
func (v *Real) Kill() {
	if v.stopping != nil {
		v.stopping()
	}
	v.stopping = nil
}

// Restart returns when it answers. It is sealed then.
func (v *Real) Restart() {
	v.t.Helper()
	v.Kill()
	cmd := exec.Command(v.args[0], v.args[1:]...)
	cmd.Stdout, cmd.Stderr = &v.log, &v.log
	if err := env.Start(cmd); err != nil {
		v.t.Fatal(err)
	}
	v.stopping = func() {
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		response, err := v.client.Get(v.URL + "/v1/sys/seal-status")
		if err == nil {
			response.Body.Close()
			return
		}
		if time.Now().After(end) {
			v.t.Fatal(err)
		}
	}
}

// Unseal returns when it answers requests.
func (v *Real) Unseal() {
	v.t.Helper()
	v.Ask(nil, http.MethodPut, "sys/unseal", map[string]any{"key": v.key})
	for end := time.Now().Add(time.Minute); v.try(nil, http.MethodGet, "sys/mounts", nil) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			v.t.Fatal("not unsealed within a minute")
		}
	}
}

// Seal has it forget its key.
func (v *Real) Seal() {
	v.t.Helper()
	v.Ask(nil, http.MethodPut, "sys/seal", nil)
}

// Ask puts a question as its operator, and fails the test if it is refused.
func (v *Real) Ask(answer any, method, path string, question any) {
	v.t.Helper()
	if err := v.try(answer, method, path, question); err != nil {
		v.t.Fatal(err)
	}
}

// Write is Ask by POST, with pairs of names and values.
func (v *Real) Write(path string, pairs ...any) (data map[string]any) {
	v.t.Helper()
	question := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		question[pairs[i].(string)] = pairs[i+1]
	}
	var answer struct {
		Data map[string]any `json:"data"`
	}
	v.Ask(&answer, http.MethodPost, path, question)
	return answer.Data
}

// Token makes one by a policy in HCL, which lasts for a time.
func (v *Real) Token(name, policy string, ttl time.Duration) string {
	v.t.Helper()
	v.Write("sys/policies/acl/"+name, "policy", policy)
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	v.Ask(&made, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{name}, "ttl": ttl.String(), "explicit_max_ttl": ttl.String()})
	return made.Auth.Token
}

func (v *Real) try(answer any, method, path string, question any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	if question == nil {
		body = nil
	}
	request, err := http.NewRequest(method, v.URL+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", v.Root)
	response, err := v.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	if answer == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, answer)
}
