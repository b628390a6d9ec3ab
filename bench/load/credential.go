// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
)

// WriteCredential writes PEM files that begin with name.
func WriteCredential(dir, name string, cert tls.Certificate, roots ...[]byte) (Credential, error) {
	c := Credential{
		Cert: filepath.Join(dir, name+"-cert.pem"), Key: filepath.Join(dir, name+"-key.pem"), Roots: filepath.Join(dir, name+"-roots.pem"),
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return c, err
	}
	return c, errors.Join(
		writePEM(c.Cert, "CERTIFICATE", cert.Certificate...),
		writePEM(c.Key, "PRIVATE KEY", key),
		writePEM(c.Roots, "CERTIFICATE", roots...),
	)
}

func writePEM(path, kind string, blocks ...[]byte) error {
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	return os.WriteFile(path, text, 0o600)
}
