// SPDX-License-Identifier: Apache-2.0

// Package vault gets the certificates of the CA's issuers from the PKI secrets engine of
// HashiCorp Vault, which has the root.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/regular"
)

// Bounds of what is read, and of waiting.
const (
	maxAnswer = 1 << 20
	maxFile   = 64 << 10
	maxCerts  = 32
	answerIn  = 10 * time.Second
)

// Options say which Vault, and who we are to it.
type Options struct {
	Address string // https://HOST:PORT, or http:// of this machine: required
	Mount   string // of the PKI secrets engine; pki
	CA      string // file of the roots in PEM that vouch for Vault's server; those of the system

	TokenFile string // holds a token; this or Role is required

	Role      string // of the Kubernetes auth method
	AuthMount string // of that; kubernetes
	JWTFile   string // holds the token of our ServiceAccount, made for Vault; required with Role
}

// Vault signs issuers. Nothing of it is kept between two questions: tokens, and the roots
// that vouch for its server, are read for each.
type Vault struct{ o Options }

// New returns a Vault that has not been asked.
func New(o Options) (*Vault, error) {
	if o.Mount == "" {
		o.Mount = "pki"
	}
	if o.AuthMount == "" {
		o.AuthMount = "kubernetes"
	}
	var err error
	if o.Address, err = Address(o.Address); err != nil {
		return nil, err
	}
	switch {
	case (o.TokenFile == "") == (o.Role == ""):
		return nil, errors.New("a file with a token, or a role of the Kubernetes auth method: want one of both")
	case o.Role != "" && o.JWTFile == "":
		return nil, errors.New("the role needs a file with the token of a ServiceAccount")
	}
	for _, path := range []string{o.Mount, o.AuthMount} {
		if _, err := Mount(path); err != nil {
			return nil, err
		}
	}
	return &Vault{o}, nil
}

// Address reads the URL of a Vault.
func Address(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("%q: want https://HOST:PORT", text)
	}
	if ip, _ := netip.ParseAddr(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || !ip.IsLoopback()) {
		return "", fmt.Errorf("%q: want https://, or http:// of a loopback address: a token passes there", text)
	}
	return u.Scheme + "://" + u.Host, nil
}

// Mount reads where an engine or auth method is mounted.
func Mount(text string) (string, error) {
	for _, part := range strings.Split(text, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "?#%\\ ") {
			return "", fmt.Errorf("%q: want the path of a mount, as pki or mesh/pki", text)
		}
	}
	return text, nil
}

// String says where issuers come from.
func (v *Vault) String() string { return fmt.Sprintf("Vault at %s, %s", v.o.Address, v.o.Mount) }

// Sign has Vault sign an issuer with the key of a CSR, of a name and a URI. It returns the
// issuer, and what Vault knows above it, its root the last.
func (v *Vault) Sign(ctx context.Context, csr []byte, name string, uri *url.URL, ttl time.Duration) ([]*x509.Certificate, error) {
	token, err := v.token(ctx)
	if err != nil {
		return nil, err
	}
	if v.o.TokenFile == "" {
		defer v.revoke(ctx, token)
	}
	var got struct {
		Data struct {
			Certificate string   `json:"certificate"`
			Issuing     string   `json:"issuing_ca"`
			Chain       []string `json:"ca_chain"`
		} `json:"data"`
	}
	err = v.ask(ctx, v.o.Mount+"/root/sign-intermediate", token, map[string]any{
		"csr":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"common_name": name, "uri_sans": uri.String(), "exclude_cn_from_sans": true,
		"max_path_length": 0, "ttl": fmt.Sprintf("%ds", int(ttl.Seconds())), "format": "pem",
	}, &got)
	if err != nil {
		return nil, err
	}
	// Vault's chain begins with the certificate, and may hold roots that cross-sign others.
	text := append([]string{got.Data.Certificate, got.Data.Issuing}, got.Data.Chain...)
	chain, err := chainOf([]byte(strings.Join(text, "\n")))
	if err == nil && len(chain) < 2 {
		err = errors.New("it names no certificate above the issuer")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	return chain, nil
}

// Chain is what Vault signs issuers with now, its root the last. It needs no token.
func (v *Vault) Chain(ctx context.Context) ([]*x509.Certificate, error) {
	text, err := v.exchange(ctx, http.MethodGet, v.o.Mount+"/ca_chain", "", nil)
	if err != nil {
		return nil, err
	}
	chain, err := chainOf(text)
	if err == nil && len(chain) == 0 {
		err = errors.New("its ca_chain is empty: it has no issuer yet")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	return chain, nil
}

// token is that of a file, or one of the Kubernetes auth method.
func (v *Vault) token(ctx context.Context) (string, error) {
	if v.o.TokenFile != "" {
		return secret(v.o.TokenFile)
	}
	jwt, err := secret(v.o.JWTFile)
	if err != nil {
		return "", err
	}
	var got struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := v.ask(ctx, "auth/"+v.o.AuthMount+"/login", "", map[string]any{"role": v.o.Role, "jwt": jwt}, &got); err != nil {
		return "", err
	}
	if got.Auth.Token == "" {
		return "", fmt.Errorf("%s: the login as %s gives no token", v, v.o.Role)
	}
	return got.Auth.Token, nil
}

// revoke ends the token of a login, which nobody needs any more. If that fails, Vault ends it
// by its time.
func (v *Vault) revoke(ctx context.Context, token string) {
	v.exchange(context.WithoutCancel(ctx), http.MethodPost, "auth/token/revoke-self", token, nil)
}

// secret is what a file holds, in one line.
func secret(path string) (string, error) {
	text, err := regular.ReadFile(path, maxFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("%s: want a token in one line", path)
	}
	return token, nil
}

// ask puts a question in JSON, and reads the answer.
func (v *Vault) ask(ctx context.Context, path, token string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	text, err := v.exchange(ctx, http.MethodPost, path, token, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s: %s: the answer is no JSON of Vault's", v, path)
	}
	return nil
}

// exchange is one request. No error quotes a token: neither body nor headers are told.
func (v *Vault) exchange(ctx context.Context, method, path, token string, body []byte) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, answerIn)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, method, v.o.Address+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Request", "true") // Vault's agent may want it
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	transport, err := v.transport()
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, CheckRedirect: redirected}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", v, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %s: %v", v, path, err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("%s: %s: the answer is longer than %d bytes", v, path, maxAnswer)
	case response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent:
		return nil, fmt.Errorf("%s: %s: %s%s", v, path, response.Status, problems(text))
	}
	return text, nil
}

// redirected follows a standby's hint to who is active, once. The token goes along: so
// it must not leave TLS.
func redirected(to *http.Request, via []*http.Request) error {
	if len(via) > 1 || to.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("it leads to %s", to.URL.Redacted())
	}
	return nil
}

func (v *Vault) transport() (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if v.o.CA != "" {
		text, err := os.ReadFile(v.o.CA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", v.o.CA)
		}
	}
	return &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}, nil
}

// problems are what Vault says was wrong, in one line: of several errors it makes a list.
func problems(text []byte) string {
	var got struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(text, &got) != nil || len(got.Errors) == 0 {
		return ""
	}
	said := strings.Join(strings.Fields(strings.Join(got.Errors, "; ")), " ")
	if len(said) > 500 {
		said = said[:500] + "…"
	}
	return ": " + said
}

// chainOf is the first certificate of a text, with those of it that signed each other above.
func chainOf(text []byte) ([]*x509.Certificate, error) {
	all, err := certificates(text)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	chain := all[:1:1]
	for top := all[0]; top.CheckSignatureFrom(top) != nil; {
		i := slices.IndexFunc(all, func(above *x509.Certificate) bool {
			return !slices.ContainsFunc(chain, above.Equal) && top.CheckSignatureFrom(above) == nil
		})
		if i < 0 {
			break
		}
		top = all[i]
		chain = append(chain, top)
	}
	return chain, nil
}

// certificates reads all of a text.
func certificates(text []byte) (chain []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if chain = append(chain, cert); len(chain) > maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
	}
	return chain, nil
}
