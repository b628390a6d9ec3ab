// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	gofederation "github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// endpointOf serves the bundle of a CA of its own.
func endpointOf(t *testing.T, certificate func(*ca.CA) func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (authority *ca.CA, url string) {
	t.Helper()
	authority, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("other.example")})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{CA: authority, RefreshHint: 30 * time.Second, Log: slog.New(slog.DiscardHandler)}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context() // ends before Cleanup
	go func() { done <- s.ServeBundle(ctx, ln, certificate(authority)) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return authority, "https://" + ln.Addr().String() + "/"
}

// go-spiffe, as a client of others would, gets all roots, their number and the hint, from
// whoever proves to be the CA.
func TestOthersGetTheBundleByHTTPSSPIFFE(t *testing.T) {
	authority, url := endpointOf(t, (*ca.CA).EndpointCertificate)
	td := authority.TrustDomain()
	known := spiffebundle.FromX509Authorities(td, authority.Roots())
	b, err := gofederation.FetchBundle(t.Context(), td, url, gofederation.WithSPIFFEAuth(known, spiffeid.RequireFromString("spiffe://other.example/culvert/identity")))
	if err != nil {
		t.Fatal(err)
	}
	generation, roots := authority.Bundle()
	sequence, _ := b.SequenceNumber()
	hint, _ := b.RefreshHint()
	if got := b.X509Authorities(); sequence != generation || hint != 30*time.Second || len(got) != len(roots) || !got[0].Equal(roots[0]) {
		t.Errorf("sequence %d, hint %v, %d roots", sequence, hint, len(got))
	}
	if _, err := gofederation.FetchBundle(t.Context(), td, url, gofederation.WithSPIFFEAuth(known, spiffeid.RequireFromString("spiffe://other.example/spire/server"))); err == nil {
		t.Error("the endpoint proved to be somebody else")
	}

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for path, method := range map[string]string{"": http.MethodPost, "config_dump": http.MethodGet} {
		request, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode/100 != 4 {
			t.Errorf("%s /%s: %s", method, path, response.Status)
		}
	}
}

// The files of https_web are read again; what is wrong with them leaves the last good pair.
func TestTheWebCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	late := NewWebCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if _, err := late.Get(nil); err == nil || late.Trouble() != err.Error() {
		t.Errorf("of files that are not there: %v, %q", err, late.Trouble())
	}
	first, firstKey := webPair(t)
	write := func(cert, key []byte) {
		for path, text := range map[string][]byte{certFile: cert, keyFile: key} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(first, firstKey)
	var said strings.Builder
	w := NewWebCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&said, nil)))
	late.looked = time.Time{}
	if pair, err := late.Get(nil); err != nil || pair == nil || late.Trouble() != "" {
		t.Errorf("files that came late: %v, %q", err, late.Trouble())
	}
	shows := func() string {
		w.looked = time.Time{} // it is time to look
		pair, err := w.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(pair.Certificate[0])
	}
	was := shows()
	second, secondKey := webPair(t)
	write(second, firstKey)
	for range 2 {
		if shows() != was {
			t.Error("a certificate without its key was taken")
		}
	}
	if strings.Count(said.String(), "level=ERROR") != 1 {
		t.Errorf("it was not said once:\n%s", &said)
	}
	write(second, secondKey)
	if shows() == was {
		t.Error("the next pair was not taken")
	}
}

// webPair is a certificate with its key, both PEM.
func webPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
