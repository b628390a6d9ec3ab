// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/regular"
)

const (
	maxWebFile  = 256 << 10
	lookAtFiles = 10 * time.Second
)

// WebCertificate proves a server by files that another hand writes, as cert-manager does. It
// is safe for concurrent use.
type WebCertificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	looked  time.Time
	problem string
}

// NewWebCertificate reads the chain and its key, both PEM. If they cannot be read yet, Trouble
// says why, and who connects is refused until they can.
func NewWebCertificate(certFile, keyFile string, log *slog.Logger) *WebCertificate {
	w := &WebCertificate{certFile: certFile, keyFile: keyFile, log: log}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookLocked()
	return w
}

func (w *WebCertificate) read() (*tls.Certificate, error) {
	chain, err := regular.ReadFile(w.certFile, maxWebFile)
	if err != nil {
		return nil, err
	}
	key, err := regular.ReadFile(w.keyFile, maxWebFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %v", w.certFile, w.keyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// Get is for tls.Config.GetCertificate. The files are read again after a while; what is wrong
// with them is said once, and the last good pair is shown.
func (w *WebCertificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookLocked()
	if w.current == nil {
		return nil, errors.New(w.problem)
	}
	return w.current, nil
}

// Trouble is why the pair that is shown is not what the files hold; empty: it is.
func (w *WebCertificate) Trouble() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookLocked()
	return w.problem
}

func (w *WebCertificate) lookLocked() {
	now := time.Now()
	if !w.looked.IsZero() && now.Sub(w.looked) < lookAtFiles {
		return
	}
	w.looked = now
	next, err := w.read()
	switch {
	case err == nil:
		w.current, w.problem = next, ""
	case err.Error() != w.problem:
		goesOn := "the last good one stays"
		if w.current == nil {
			goesOn = "nobody gets the bundle"
		}
		w.problem = err.Error()
		w.log.Error("the certificate of the bundle endpoint cannot be read; "+goesOn, logError, err)
	}
}
