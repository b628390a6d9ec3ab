// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// pki is the cluster's own authority. Everything it makes is written to a file.
type pki struct {
	config Config
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pem    []byte // of cert
}

// newPKI makes the authority, the API server's certificates, the key of ServiceAccount
// tokens, and a kubeconfig for each component and for people. relay is the address at
// which people reach the API server.
func newPKI(c Config, relay string) error {
	p, err := newAuthority(c)
	if err != nil {
		return err
	}
	errs := []error{
		p.tokenKey(),
		p.pair("apiserver", servingTemplate()),
		p.pair("kubelet-client", newTemplate("kube-apiserver-kubelet-client", "system:masters")),
		p.kubeconfig(Kubeconfig(c.Name), "https://"+relay, "admin", "system:masters"),
		p.kubeconfig(c.pki("admin.kubeconfig"), apiURL, "admin", "system:masters"),
		p.kubeconfig(c.pki("controllers.kubeconfig"), apiURL, "system:kube-controller-manager"),
		p.kubeconfig(c.pki("scheduler.kubeconfig"), apiURL, "system:kube-scheduler"),
	}
	for _, n := range nodes {
		errs = append(errs,
			os.WriteFile(c.nodeFile(n, "ca.crt"), p.pem, 0o644),
			p.kubeconfig(c.nodeFile(n, "kubelet.kubeconfig"), apiURL, "system:node:"+n.Name, "system:nodes"),
			p.kubeconfig(c.nodeFile(n, "proxy.kubeconfig"), apiURL, "system:kube-proxy"))
	}
	return errors.Join(errs...)
}

func newAuthority(c Config) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := newTemplate("culvert test cluster")
	template.IsCA, template.BasicConstraintsValid, template.ExtKeyUsage = true, true, nil
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	p := &pki{config: c, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	return p, errors.Join(p.writeKey("ca.key", key), os.WriteFile(c.pki("ca.crt"), p.pem, 0o644))
}

// newTemplate is valid for a month: longer than a cluster of make cluster is kept.
func newTemplate(name string, organizations ...string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: organizations},
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     now.AddDate(0, 1, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// servingTemplate is for the API server, by every name it is called.
func servingTemplate() *x509.Certificate {
	template := newTemplate("kube-apiserver")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), apiService.AsSlice(), controlPlane[0].Addr().AsSlice()}
	template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"}
	return template
}

// pair writes a new certificate and its key to FILE.crt and FILE.key.
func (p *pki) pair(file string, template *x509.Certificate) error {
	cert, key, err := p.sign(template)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(p.config.pki(file+".crt"), cert, 0o644),
		os.WriteFile(p.config.pki(file+".key"), key, 0o600))
}

// sign makes a key and a certificate for it, both in PEM.
func (p *pki) sign(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, err
}

func (p *pki) writeKey(file string, key *ecdsa.PrivateKey) error {
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(p.config.pki(file), text, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// tokenKey makes the key pair of ServiceAccount tokens.
func (p *pki) tokenKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := p.writeKey("tokens.key", key); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return os.WriteFile(p.config.pki("tokens.pub"), public, 0o644)
}

// kubeconfig writes a client's kubeconfig, with a new certificate of that user and those
// groups in it.
func (p *pki) kubeconfig(path, server, user string, groups ...string) error {
	cert, key, err := p.sign(newTemplate(user, groups...))
	if err != nil {
		return err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, `apiVersion: v1
kind: Config
clusters:
- name: culvert
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %q
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: culvert
  context: {cluster: culvert, user: %q}
current-context: culvert
`, server, encode(p.pem), user, encode(cert), encode(key), user)
	return os.WriteFile(path, text.Bytes(), 0o600)
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
