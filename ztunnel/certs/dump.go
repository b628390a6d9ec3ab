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

// Stats is a count of what a Store holds and did.
type Stats struct {
	Held     int // identities in use
	Valid    int // of them, with a valid SVID
	Overdue  int // of them, whose renewal has failed for too long
	InFlight int
	Issued   uint64
	Failed   uint64
	Until    time.Time // earliest expiry of a valid SVID, or zero
}

// Stats counts.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	stats := Stats{Held: len(s.entries), InFlight: s.inFlight, Issued: s.issued, Failed: s.failed}
	for _, e := range s.entries {
		if !e.current.valid(now) {
			continue
		}
		stats.Valid++
		if e.current.overdue(now) {
			stats.Overdue++
		}
		if stats.Until.IsZero() || e.current.until.Before(stats.Until) {
			stats.Until = e.current.until
		}
	}
	return stats
}

// Expiries returns, by identity, when each valid SVID ends.
func (s *Store) Expiries() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiries := make(map[string]time.Time)
	for id, e := range s.entries {
		if e.current.valid(time.Now()) {
			expiries[id.String()] = e.current.until
		}
	}
	return expiries
}

// The "certificates" of a config dump, as istioctl reads them from ztunnel.
type (
	dumpedSVID struct {
		Identity  string       `json:"identity"`
		State     string       `json:"state"`
		CertChain []dumpedCert `json:"certChain"`
		RootCerts []dumpedCert `json:"rootCerts"`
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
		d := dumpedSVID{Identity: e.id.String(), State: e.state(now), CertChain: []dumpedCert{}, RootCerts: []dumpedCert{}}
		if e.current != nil {
			d.CertChain = dumpCerts(e.current.chain)
			d.RootCerts = dumpCerts(s.bundle.roots)
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b dumpedSVID) int { return cmp.Compare(a.Identity, b.Identity) })
	return all
}

func (e *entry) state(now time.Time) string {
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
