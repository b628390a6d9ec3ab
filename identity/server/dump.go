// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/identity/federation"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// What GET /config_dump of the CA shows, in JSON. All times are in UTC, all
// fingerprints SHA-256 in hexadecimal. Programs read it: names stay.
type (
	dump struct {
		TrustDomain string         `json:"trustDomain"`
		Store       dumpedStore    `json:"store"`
		Chain       []dumpedCert   `json:"chain"`                // what signs leaves: the issuer first, without the root
		Serving     *dumpedCert    `json:"serving,omitempty"`    // by which nodes know this replica; none: it cannot prove itself
		Bundle      dumpedBundle   `json:"bundle"`               // what nodes trust
		Rekey       *rekey.Status  `json:"rekey,omitempty"`      // of the root, as this replica sees it
		DenySet     *dumpedDenySet `json:"denySet,omitempty"`    // none: nothing is denied
		Federation  *dumpedOthers  `json:"federation,omitempty"` // none: with nobody
		Ledger      *dumpedLedger  `json:"ledger,omitempty"`     // none: none is kept
		Nodes       []dumpedNode   `json:"nodes"`                // that proved themselves within a day, by name
		Readiness   []dumpedTarget `json:"readiness"`            // as /readyz
		Issuance    dumpedIssuance `json:"issuance"`
	}
	dumpedStore struct {
		Where   string            `json:"where,omitempty"`   // "directory PATH" or "Secret namespace/name"
		Layout  string            `json:"layout,omitempty"`  // under which names the files were found
		Renewal string            `json:"renewal,omitempty"` // of the issuer, in a sentence
		Problem string            `json:"problem,omitempty"` // why what is there now is not taken
		Since   time.Time         `json:"problemSince,omitzero"`
		Events  map[string]uint64 `json:"events,omitempty"`
	}
	dumpedBundle struct {
		Generation uint64       `json:"generation"`       // 0: the CA is not open
		SHA256     string       `json:"sha256,omitempty"` // of the set: the order does not matter
		Roots      []dumpedCert `json:"roots"`
	}
	dumpedOthers struct {
		Domains []federation.Status `json:"domains"`           // by name
		Problem string              `json:"problem,omitempty"` // why they are not what was written last
	}
	dumpedDenySet struct {
		Generation uint64 `json:"generation"` // 0: it is not known yet
		Entries    int    `json:"entries"`
		Problem    string `json:"problem,omitempty"` // why it is not what was written last
	}
	dumpedNode struct {
		Name        string    `json:"name"`
		Address     string    `json:"address"` // of the last request
		LastRequest time.Time `json:"lastRequest"`
		LastResult  string    `json:"lastResult"`       // ok, or the word for why it was refused
		Bundle      *Ack      `json:"bundle,omitempty"` // which roots it goes by, as it told this replica; none: it did not
		Denies      uint64    `json:"denies,omitempty"` // generation of the deny set that it enforces, likewise
	}
	dumpedTarget struct {
		Name    string `json:"name"`
		Ready   bool   `json:"ready"`
		Problem string `json:"problem,omitempty"`
	}
	dumpedIssuance struct {
		TTLSeconds   float64  `json:"ttlSeconds"` // unless a node asks for less
		DNSNames     []string `json:"dnsNames"`   // in the serving certificate
		NodeAccounts []string `json:"nodeAccounts"`
	}
	dumpedCert struct {
		Subject        string    `json:"subject"`
		Issuer         string    `json:"issuer"`
		Serial         string    `json:"serial"` // in hexadecimal
		SubjectKeyID   string    `json:"subjectKeyId,omitempty"`
		AuthorityKeyID string    `json:"authorityKeyId,omitempty"`
		Algorithm      string    `json:"algorithm"` // of the key
		NotBefore      time.Time `json:"notBefore"`
		NotAfter       time.Time `json:"notAfter"`
		SHA256         string    `json:"sha256"`
		PEM            string    `json:"pem"`
	}
)

// dump is what the CA is and knows now. It holds nothing secret.
func (s *Server) dump() dump {
	generation, roots := s.cfg.CA.Bundle()
	d := dump{
		TrustDomain: s.cfg.CA.TrustDomain().Name(),
		Store:       dumpedStore{Where: s.cfg.Store, Layout: string(s.cfg.CA.Layout())},
		Chain:       dumpCerts(s.cfg.CA.Chain()),
		Bundle:      dumpedBundle{Generation: generation, Roots: dumpCerts(roots)},
		Nodes:       s.dumpNodes(),
		Issuance:    dumpedIssuance{TTLSeconds: s.cfg.TTL.Seconds(), DNSNames: s.cfg.DNSNames},
	}
	if set := s.cfg.Denied; set != nil {
		generation, entries, _ := set.Entries()
		d.DenySet = &dumpedDenySet{generation, len(entries), set.Trouble()}
	}
	if f := s.cfg.Federation; f != nil {
		d.Federation = &dumpedOthers{f.Status(), f.Trouble()}
	}
	d.Ledger = s.accountant.dump()
	if len(roots) > 0 {
		d.Bundle.SHA256 = bundleHash(roots)
	}
	if s.cfg.Trouble != nil {
		trouble := s.cfg.Trouble()
		d.Store.Problem, d.Store.Since = trouble.Problem, trouble.Since.UTC()
	}
	if s.cfg.Renewal != nil {
		if r := s.cfg.Renewal(); r.State != "" {
			d.Store.Renewal = r.String()
		}
	}
	if s.cfg.Events != nil {
		d.Store.Events = s.cfg.Events()
	}
	if s.cfg.Rekey != nil {
		d.Rekey = new(s.cfg.Rekey())
	}
	if serving, err := s.certificate(nil); err == nil {
		d.Serving = new(dumpCert(serving.Leaf))
	}
	for _, account := range s.cfg.NodeAccounts {
		d.Issuance.NodeAccounts = append(d.Issuance.NodeAccounts, account.String())
	}
	for _, t := range s.targets() {
		line := dumpedTarget{Name: t.name, Ready: t.err == nil}
		if t.err != nil {
			line.Problem = t.err.Error()
		}
		d.Readiness = append(d.Readiness, line)
	}
	return d
}

func (s *Server) dumpNodes() []dumpedNode {
	last, acks, denies := s.visits.all(), s.Acks(), s.Denying()
	all := make([]dumpedNode, 0, len(last))
	for _, name := range slices.Sorted(maps.Keys(last)) {
		v := last[name]
		d := dumpedNode{Name: name, Address: v.address, LastRequest: v.at.UTC(), LastResult: v.result}
		if ack, told := acks[name]; told {
			d.Bundle = &ack
		}
		d.Denies = denies[name]
		all = append(all, d)
	}
	return all
}

func dumpCerts(certs []*x509.Certificate) []dumpedCert {
	all := make([]dumpedCert, 0, len(certs))
	for _, cert := range certs {
		all = append(all, dumpCert(cert))
	}
	return all
}

func dumpCert(cert *x509.Certificate) dumpedCert {
	return dumpedCert{
		Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: cert.SerialNumber.Text(16),
		SubjectKeyID: hex.EncodeToString(cert.SubjectKeyId), AuthorityKeyID: hex.EncodeToString(cert.AuthorityKeyId),
		Algorithm: cert.PublicKeyAlgorithm.String(), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), SHA256: fingerprint(cert),
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
	}
}
