// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/culvert-mesh/culvert/regular"
)

// fetch asks the endpoint for the bundle. Of https_spiffe, known are the roots that vouch for
// the endpoint.
func (d Domain) fetch(ctx context.Context, known []*x509.Certificate) (*spiffebundle.Bundle, error) {
	config, err := d.tls(known)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxHeader, TLSHandshakeTimeout: maxFetch,
	}
	client := &http.Client{Transport: transport, Timeout: maxFetch, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("it leads elsewhere, which is not followed: name where it leads")
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", d.URL, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBundle+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read what %s answers: %v", d.URL, err)
	case len(text) > maxBundle:
		return nil, fmt.Errorf("%s answers with more than %d bytes", d.URL, maxBundle)
	}
	b, err := spiffebundle.Parse(d.TrustDomain, text)
	if err != nil {
		return nil, fmt.Errorf("%s answers with no bundle: %v", d.URL, err)
	}
	return b, nil
}

func (d Domain) tls(known []*x509.Certificate) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.Profile == HTTPSSPIFFE {
		if len(known) == 0 {
			return nil, errors.New("nothing vouches for the endpoint: there is no bundle to begin with")
		}
		bundle := x509bundle.FromX509Authorities(d.TrustDomain, known)
		config.InsecureSkipVerify = true // VerifyConnection does it all
		config.VerifyConnection = func(state tls.ConnectionState) error {
			id, _, err := x509svid.Verify(state.PeerCertificates, bundle)
			if err == nil && id != d.EndpointID {
				err = fmt.Errorf("the endpoint is %v, want %v", id, d.EndpointID)
			}
			return err
		}
		return config, nil
	}
	if d.RootsFile == "" {
		return config, nil
	}
	text, err := regular.ReadFile(d.RootsFile, maxBundle)
	if err != nil {
		return nil, fmt.Errorf("rootsFile: %v", err)
	}
	if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("rootsFile: %s holds no certificate in PEM", d.RootsFile)
	}
	return config, nil
}

// begin reads the bundle that a domain of https_spiffe begins with.
func (d Domain) begin() (text []byte, roots []*x509.Certificate, err error) {
	if text, err = regular.ReadFile(d.BundleFile, maxBundle); err != nil {
		return nil, nil, fmt.Errorf("bundleFile: %v", err)
	}
	if b, err := spiffebundle.Parse(d.TrustDomain, text); err == nil {
		roots = b.X509Authorities()
	} else {
		roots, err = parsePEM(text)
		if err != nil {
			return nil, nil, fmt.Errorf("bundleFile: %s: %v", d.BundleFile, err)
		}
	}
	if len(roots) == 0 {
		return nil, nil, fmt.Errorf("bundleFile: %s holds no root: want a JWKS with keys of the use x509-svid, or PEM", d.BundleFile)
	}
	return text, roots, nil
}

func parsePEM(text []byte) (all []*x509.Certificate, err error) {
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is neither a JWKS nor certificates in PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	return all, nil
}
