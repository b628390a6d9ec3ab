// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"time"
)

// The "certificates" of a config dump, as istioctl reads them from ztunnel. It leaves
// "renewal" alone, which culvert reads.
type (
	dumpedSVID struct {
		Identity  string       `json:"identity"`
		State     string       `json:"state"`
		CertChain []dumpedCert `json:"certChain"`
		RootCerts []dumpedCert `json:"rootCerts"`
		Renewal   dumpedNext   `json:"renewal"`
	}
	dumpedNext struct {
		At      time.Time `json:"at"`              // when the next certificate is asked for
		Until   time.Time `json:"until,omitzero"`  // until when the one that came is used: with Config.ClockSkew longer than it says
		Error   string    `json:"error,omitempty"` // of the last attempt
		Overdue bool      `json:"overdue"`         // see Overdue
	}
	dumpedCert struct {
		PEM            string `json:"pem"` // in base64
		SerialNumber   string `json:"serialNumber"`
		ValidFrom      string `json:"validFrom"`
		ExpirationTime string `json:"expirationTime"`
	}
)

// Dump is what the config dump shows of the Store, ordered by identity. It
// holds nothing secret.
func (s *Store) Dump() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	all := make([]dumpedSVID, 0, len(s.entries))
	for _, e := range s.entries {
		d := dumpedSVID{Identity: e.id.String(), State: e.dumpState(now), CertChain: []dumpedCert{}, RootCerts: []dumpedCert{}}
		d.Renewal = dumpedNext{At: e.due, Overdue: e.state(now) == Overdue}
		if e.err != nil {
			d.Renewal.Error = e.err.Error()
		}
		if e.current != nil {
			d.Renewal.Until = e.current.until
			chain, _ := e.current.chain() // it was read once
			d.CertChain = dumpCerts(chain)
			d.RootCerts = dumpCerts(s.bundle.roots)
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b dumpedSVID) int { return cmp.Compare(a.Identity, b.Identity) })
	return all
}

// dumpState is in istioctl's words.
func (e *entry) dumpState(now time.Time) string {
	switch {
	case e.current.valid(now):
		return "Available"
	case e.current == nil && e.err == nil:
		return "Initializing"
	case e.err == nil:
		return "Unavailable: expired"
	}
	return "Unavailable: " + e.err.Error()
}

func dumpCerts(certs []*x509.Certificate) []dumpedCert {
	dumped := make([]dumpedCert, 0, len(certs))
	for _, cert := range certs {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		dumped = append(dumped, dumpedCert{
			PEM:            base64.StdEncoding.EncodeToString(text),
			SerialNumber:   cert.SerialNumber.String(),
			ValidFrom:      cert.NotBefore.UTC().Format(time.RFC3339),
			ExpirationTime: cert.NotAfter.UTC().Format(time.RFC3339),
		})
	}
	return dumped
}
