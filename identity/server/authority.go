// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// What a certificate is to the CA, as a label's value.
const (
	isRoot         = "root"
	isIntermediate = "intermediate" // between root and issuer
	isIssuer       = "issuer"
	isServing      = "serving"
)

// authority collects what there is to say of the CA at each scrape: it may get
// another issuer.
type authority struct {
	ca      *ca.CA
	serving func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	events  func() map[string]uint64
	trouble func() ca.Trouble
	renewal func() ca.Renewal
	targets func() []target
}

var (
	expiryDesc = prometheus.NewDesc("culvert_identity_expiry_timestamp_seconds",
		"When the CA's own certificates expire or expired, in Unix time.", []string{"certificate", "sha256"}, nil)
	lifetimeDesc = prometheus.NewDesc("culvert_identity_lifetime_seconds",
		"How long the CA's own certificates are valid, from their first second to their last.", []string{"certificate", "sha256"}, nil)
	bundleDesc = prometheus.NewDesc("culvert_identity_bundle_generation",
		"Generation of the set of roots that this replica gives to nodes; sha256 names the set, whatever its order.", []string{"sha256"}, nil)
	readyDesc = prometheus.NewDesc("culvert_identity_ready",
		"1 for what the CA needs to serve nodes and has; 0 for what it lacks.", []string{"target"}, nil)
	troubleDesc = prometheus.NewDesc("culvert_identity_store_trouble",
		"1 while what is where the CA is kept is no CA to take, or cannot be read: what is in force signs on.", nil, nil)
	timeDesc = prometheus.NewDesc("culvert_identity_time_seconds",
		"What the clock of this replica says: compared with the time of a scrape, it tells a clock that is off.", nil, nil)
	renewalDesc = prometheus.NewDesc("culvert_identity_issuer_renewal_timestamp_seconds",
		"When the issuer is past half its life, in Unix time, and whether Culvert renews it then: state is automatic, or says why not.", []string{"state"}, nil)
	signerDesc = prometheus.NewDesc("culvert_identity_signer_requests_total",
		"How often the signer of the issuer's key was asked, by what came of it: signed; away, if it did not answer or cannot sign; wrong, if it has another key. Without a signer there is no series; another issuer begins at 0.", []string{"outcome"}, nil)
	eventsDesc = prometheus.NewDesc("culvert_identity_ca_events_total",
		"What happened to the CA where it is kept: another issuer was taken or refused, the root was published, a deleted Secret restored.", []string{"event"}, nil)
)

// Describe is part of prometheus.Collector.
func (a *authority) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{expiryDesc, lifetimeDesc, bundleDesc, readyDesc, troubleDesc, renewalDesc, timeDesc, signerDesc, eventsDesc} {
		out <- desc
	}
}

// Collect is part of prometheus.Collector.
func (a *authority) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	certificate := func(what string, cert *x509.Certificate, name string) {
		gauge(expiryDesc, float64(cert.NotAfter.Unix()), what, name)
		gauge(lifetimeDesc, cert.NotAfter.Sub(cert.NotBefore).Seconds(), what, name)
	}
	generation, roots := a.ca.Bundle()
	for _, cert := range distinct(ca.Unrenewed(roots, time.Now())) {
		certificate(isRoot, cert, fingerprint(cert)[:nameLength])
	}
	for i, cert := range distinct(a.ca.Chain()) {
		what := isIntermediate
		if i == 0 {
			what = isIssuer
		}
		certificate(what, cert, fingerprint(cert)[:nameLength])
	}
	if serving, err := a.serving(nil); err == nil {
		certificate(isServing, serving.Leaf, "") // it is made anew each half day: no series for each
	}
	if len(roots) > 0 {
		gauge(bundleDesc, float64(generation), bundleHash(roots)[:nameLength])
	}
	for _, t := range a.targets() {
		value := 1.0
		if t.err != nil {
			value = 0
		}
		gauge(readyDesc, value, t.name)
	}
	gauge(timeDesc, float64(time.Now().UnixMilli())/1e3)
	if a.trouble != nil {
		trouble := 0.0
		if a.trouble().Problem != "" {
			trouble = 1
		}
		gauge(troubleDesc, trouble)
	}
	if a.renewal != nil {
		if r := a.renewal(); r.State != "" {
			gauge(renewalDesc, float64(r.Due.Unix()), string(r.State))
		}
	}
	if key := a.ca.Signer(); key != nil {
		n := key.Counts()
		for outcome, n := range map[string]uint64{"signed": n.Signed, "away": n.Away, "wrong": n.Wrong} {
			out <- prometheus.MustNewConstMetric(signerDesc, prometheus.CounterValue, float64(n), outcome)
		}
	}
	if a.events == nil {
		return
	}
	for event, n := range a.events() {
		out <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(n), event)
	}
}

// nameLength is how much of a fingerprint stands in a label.
const nameLength = 16

// distinct leaves out what is there twice: two series of one name fail a scrape.
func distinct(certs []*x509.Certificate) []*x509.Certificate {
	var all []*x509.Certificate
	for _, cert := range certs {
		if !slices.ContainsFunc(all, cert.Equal) {
			all = append(all, cert)
		}
	}
	return all
}

// fingerprint is the SHA-256 of a certificate, in hexadecimal.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// bundleHash names a set of roots, in hexadecimal.
func bundleHash(roots []*x509.Certificate) string {
	sum := identity.BundleHash(roots)
	return hex.EncodeToString(sum[:])
}
