// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/culvert-mesh/culvert/identity/federation"
)

// ServeBundle gives the bundle of this trust domain to others until ctx ends, by the SPIFFE
// Federation standard. certificate proves the endpoint: the CA's EndpointCertificate in the
// profile https_spiffe, that of a WebCertificate in https_web.
func (s *Server) ServeBundle(ctx context.Context, ln net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	return serveOn(ctx, newDoor(ln, room{strangers: roomFor(descriptors()).bundle}, proveWithin), "the bundle endpoint", s.bundleHandler(), &tls.Config{
		MinVersion:             tls.VersionTLS12, // clients are others' programs
		GetCertificate:         certificate,
		SessionTicketsDisabled: true,
	})
}

func (s *Server) bundleHandler() http.Handler {
	published := &publication{server: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text, err := published.text()
		if err != nil {
			http.Error(w, "there is no bundle: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Connection", "close") // a client comes again in minutes
		w.Write(text)
	})
	return mux
}

// publication is the bundle as it is sent, made once for each generation.
type publication struct {
	server *Server

	mu         sync.Mutex // guards what follows
	generation uint64
	is         []byte
}

func (p *publication) text() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	generation, roots := p.server.cfg.CA.Bundle()
	switch {
	case generation == 0:
		return nil, errors.New("the certificate authority is not open yet")
	case generation == p.generation:
		return p.is, nil
	}
	known := slices.DeleteFunc(slices.Clone(roots), func(root *x509.Certificate) bool {
		lone := spiffebundle.FromX509Authorities(p.server.cfg.CA.TrustDomain(), []*x509.Certificate{root})
		_, err := lone.Marshal()
		if err != nil {
			p.server.cfg.Log.Error("a root is not in the bundle that other trust domains get: a JWKS has no name for its key", logRoot, root.Subject.String(), logError, err)
		}
		return err != nil
	})
	if len(known) == 0 {
		return nil, errors.New("no root has a key that a JWKS can name")
	}
	b := spiffebundle.FromX509Authorities(p.server.cfg.CA.TrustDomain(), known)
	b.SetSequenceNumber(generation)
	b.SetRefreshHint(p.server.cfg.RefreshHint)
	text, err := b.Marshal()
	if err != nil {
		return nil, err
	}
	p.generation, p.is = generation, text
	return text, nil
}

// federating are metrics of the bundles of other trust domains.
func federating(f *federation.Federation) prometheus.Collector {
	of := []string{"trust_domain"}
	age := prometheus.NewDesc("culvert_identity_federation_age_seconds", "For how long the bundle of another trust domain was not fetched.", of, nil)
	due := prometheus.NewDesc("culvert_identity_federation_refresh_seconds", "How often the bundle of another trust domain should be fetched.", of, nil)
	roots := prometheus.NewDesc("culvert_identity_federation_roots", "Roots of another trust domain that nodes are told of.", of, nil)
	failures := prometheus.NewDesc("culvert_identity_federation_failures_total", "Attempts to fetch the bundle of another trust domain that failed, or gave what was refused.", of, nil)
	failing := prometheus.NewDesc("culvert_identity_federation_failing", "Whether the last attempt to fetch the bundle of another trust domain failed.", of, nil)
	dropped := prometheus.NewDesc("culvert_identity_federation_file_dropped", "Roots in the bundle file of another trust domain that its bundle has dropped.", of, nil)
	return collectorFunc(func(out chan<- prometheus.Metric) {
		for _, s := range f.Status() {
			gauge := func(desc *prometheus.Desc, v float64) {
				out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, s.TrustDomain)
			}
			gauge(age, s.AgeSeconds)
			gauge(due, s.RefreshSeconds)
			gauge(roots, float64(s.Roots))
			gauge(failing, number(s.Problem != ""))
			gauge(dropped, float64(s.Dropped))
			out <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(s.Failures), s.TrustDomain)
		}
	})
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
