// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"fmt"
	"log/slog"
)

// Reason says in one word what happened to a CA where it is kept.
type Reason string

// Reasons, as Keeper.Events counts them and Kubernetes Events bear them.
const (
	IssuerUpdated          Reason = "IssuerUpdated"          // another issuer was put into the store, and signs
	IssuerUpdateSkipped    Reason = "IssuerUpdateSkipped"    // the files changed, and say the same as before
	IssuerValidationFailed Reason = "IssuerValidationFailed" // the store got what is no CA to take; what was in force stays
	IssuerRenewed          Reason = "IssuerRenewed"          // this process made the next issuer
	IssuerRenewalFailed    Reason = "IssuerRenewalFailed"    // it is due, and could not be stored
	IssuerExpiring         Reason = "IssuerExpiring"         // it is past half its life, and Culvert does not renew it
	RootAdded              Reason = "RootAdded"              // verifiers are to trust one more
	RootDropped            Reason = "RootDropped"            // and one less
	StoreLost              Reason = "StoreLost"              // the CA was deleted; this process signs on
	StoreRestored          Reason = "StoreRestored"          // this process put it back
	SignerLost             Reason = "SignerLost"             // the signer of the issuer's key cannot sign: no certificate is issued
	SignerBack             Reason = "SignerBack"             // it signs again
	RekeyStepped           Reason = "RekeyStepped"           // the re-key of the root is in another state; see identity/rekey
	RekeyLags              Reason = "RekeyLags"              // it has waited for long, for what the message names
	LedgerLost             Reason = "LedgerLost"             // lines of the ledger are gone that its anchor names, or an anchor is; see identity/ledger
)

var reasons = []Reason{
	IssuerUpdated, IssuerUpdateSkipped, IssuerValidationFailed, IssuerRenewed, IssuerRenewalFailed, IssuerExpiring,
	RootAdded, RootDropped, StoreLost, StoreRestored, SignerLost, SignerBack, RekeyStepped, RekeyLags, LedgerLost,
}

// Event is one thing that happened.
type Event struct {
	Reason  Reason
	Warning bool   // somebody should act
	Message string // the same in all replicas to which the same happened
}

// describe says of a certificate what tells it from others.
func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("%s, serial %x, sha256 %s, from %s to %s",
		cert.Subject, cert.SerialNumber, Fingerprint(cert), stamp(cert.NotBefore), stamp(cert.NotAfter))
}

func describeAll(certs []*x509.Certificate) slog.Value {
	var all []string
	for _, cert := range certs {
		all = append(all, describe(cert))
	}
	return slog.AnyValue(all)
}
