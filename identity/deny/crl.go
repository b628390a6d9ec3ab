// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// CRLKey is where revocation lists stand in a ConfigMap, as Istio has them.
const CRLKey = "ca-crl.pem"

// maxCRLs bounds the lists of one text: one for each issuer of a chain.
const maxCRLs = 64

// ParseCRLs reads certificate revocation lists (RFC 5280) in PEM as entries of a deny set.
// Each must be signed by one of issuers, which are all of the CA's chain and roots; if one is
// not, nothing is returned. A serial number of one of issuers denies that issuer. remarks are
// for operators:
//
//   - A list whose nextUpdate is over counts nevertheless, because what it revokes stays revoked.
//   - A serial number that one of issuers has from another issuer is left out: an entry does not
//     say whose number it is, so it would deny all below that one.
func ParseCRLs(text []byte, issuers []*x509.Certificate, now time.Time) (entries []Entry, remarks []string, err error) {
	if len(text) > MaxText {
		return nil, nil, fmt.Errorf("longer than %d bytes", MaxText)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil, errors.New("empty: want a revocation list, of no certificate if none is revoked")
	}
	for n := 1; len(bytes.TrimSpace(text)) > 0; n++ {
		block, rest := pem.Decode(text)
		switch {
		case block == nil:
			return nil, nil, fmt.Errorf("block %d: not PEM", n)
		case block.Type != "X509 CRL":
			return nil, nil, fmt.Errorf("block %d: a %q, want an X509 CRL", n, block.Type)
		case n > maxCRLs:
			return nil, nil, fmt.Errorf("more than %d revocation lists", maxCRLs)
		}
		text = rest
		list, by, err := verifiedCRL(block.Bytes, issuers)
		if err != nil {
			return nil, nil, fmt.Errorf("block %d: %w", n, err)
		}
		if !list.NextUpdate.IsZero() && now.After(list.NextUpdate) {
			remarks = append(remarks, fmt.Sprintf("the revocation list of %q should have been replaced by %s", by.Subject, list.NextUpdate.UTC().Format(time.RFC3339)))
		}
		more, shared := revoked(list, by, issuers)
		if entries = append(entries, more...); len(entries) > MaxEntries {
			return nil, nil, fmt.Errorf("more than %d certificates are revoked", MaxEntries)
		}
		remarks = append(remarks, shared...)
	}
	return slices.CompactFunc(entries, Entry.Is), remarks, nil
}

// verifiedCRL is a list, and who signed it.
func verifiedCRL(der []byte, issuers []*x509.Certificate) (*x509.RevocationList, *x509.Certificate, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(deltaCRL) }) {
		return nil, nil, errors.New("a delta list says only what has changed: want a complete one")
	}
	var wrong error
	for _, by := range issuers {
		if !bytes.Equal(list.RawIssuer, by.RawSubject) {
			continue
		}
		err := list.CheckSignatureFrom(by)
		if err == nil {
			return list, by, nil
		}
		wrong = fmt.Errorf("the revocation list of %q: %v", by.Subject, err)
	}
	if wrong == nil {
		wrong = fmt.Errorf("the revocation list is of %q, which is no issuer or root of this CA", list.Issuer)
	}
	return nil, nil, wrong
}

// deltaCRL is the extension that makes a list a delta (RFC 5280, 5.2.4).
var deltaCRL = asn1.ObjectIdentifier{2, 5, 29, 27}

// reasons are those of RFC 5280, 5.3.1.
var reasons = map[int]string{
	1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation",
	6: "certificateHold", 9: "privilegeWithdrawn", 10: "aACompromise",
}

// maxShared bounds how many serial numbers a list is told that are left out.
const maxShared = 3

// revoked is what a list denies, and which numbers are left out. See ParseCRLs.
func revoked(list *x509.RevocationList, by *x509.Certificate, issuers []*x509.Certificate) (entries []Entry, shared []string) {
	left := 0
	for _, r := range list.RevokedCertificateEntries {
		e := Entry{Kind: KindSerial, Value: r.SerialNumber.Text(16), Reason: "revoked by a CRL"}
		if reason, known := reasons[r.ReasonCode]; known {
			e.Reason += ": " + reason
		}
		var another *x509.Certificate // has this number from somebody else
		for _, c := range issuers {
			switch {
			case c.SerialNumber.Cmp(r.SerialNumber) != 0:
			case !bytes.Equal(c.RawIssuer, by.RawSubject):
				another = c
			case len(c.SubjectKeyId) > 0:
				e.Kind, e.Value = KindIssuer, fmt.Sprintf("%x", c.SubjectKeyId)
			}
		}
		if e.Kind == KindIssuer || another == nil {
			entries = append(entries, e)
		} else if left++; left <= maxShared {
			shared = append(shared, fmt.Sprintf("serial %s, revoked by %q, is left out, because %q has that number too, by %q: deny the key (spki) instead", e.Value, by.Subject, another.Subject, another.Issuer))
		}
	}
	if left > maxShared {
		shared = append(shared, fmt.Sprintf("and %d more of %q", left-maxShared, by.Subject))
	}
	return entries, shared
}

// TakeCRLs puts what a text of revocation lists revokes in force, or keeps what is in force
// if one of them is wrong. See Take.
func (s *Set) TakeCRLs(text []byte, issuers []*x509.Certificate, version uint64, from string, log *slog.Logger) error {
	entries, remarks, err := ParseCRLs(text, issuers, time.Now())
	if err != nil {
		return s.Keep(fmt.Errorf("%s: %w", from, err), log)
	}
	before := s.Trouble()
	s.replace(entries, version, from, log)
	if len(remarks) == 0 {
		return nil
	}
	strange := fmt.Errorf("%s: %s", from, strings.Join(remarks, "; "))
	if s.fail(strange); before != strange.Error() {
		log.Warn("revocation lists are in force, but not all is well with them", logError, strange)
	}
	return nil
}

// FollowCRLFile takes the revocation lists of a file whenever that, or what issuers returns,
// has changed, until ctx ends. See FollowFile.
func (s *Set) FollowCRLFile(ctx context.Context, path string, issuers func() []*x509.Certificate, log *slog.Logger) error {
	return s.follow(ctx, path, log, func(text []byte) error {
		return s.TakeCRLs(text, issuers(), modified(path), path, log)
	})
}
