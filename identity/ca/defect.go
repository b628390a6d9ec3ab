// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"fmt"
	"strings"
)

// Severity says what a defect does to a CA.
type Severity int

// Severities.
const (
	Warning Severity = iota + 1 // the CA can be used, and something about it will hurt
	Error                       // the CA is refused
)

func (s Severity) String() string {
	switch s {
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return fmt.Sprintf("severity %d", int(s))
}

// Defect is one thing that is wrong with the files of a CA.
type Defect struct {
	Code     string   // CA and three digits, which mean the same in every version
	Severity Severity //
	File     string   // the name of the file at fault; none: the set of files
	What     string   // what is wrong, with the file and what was found in it
	Follows  string   // what comes of it
	Mend     string   // what to do, as a command where one does it

	cause error
}

// Error is what is wrong, and the code.
func (d Defect) Error() string { return fmt.Sprintf("%s (%s)", d.What, d.Code) }

// NeedsPassphrase reports whether a defect is nothing but that a private key is encrypted
// and Options name no file with its passphrase.
func NeedsPassphrase(d Defect) bool { return d.Code == encryptedKey || d.Code == rootKeyEncrypted }

// Unwrap is ErrExpired of a certificate that has.
func (d Defect) Unwrap() error { return d.cause }

// refusal is an error of at least one defect.
type refusal []Defect

func (r refusal) Error() string {
	var texts []string
	for _, d := range r {
		texts = append(texts, d.Error())
	}
	return strings.Join(texts, "; ")
}

func (r refusal) Unwrap() (all []error) {
	for _, d := range r {
		all = append(all, d)
	}
	return all
}

// report notes a defect. The format and its arguments say what is wrong.
func (e *examination) report(code, file, format string, args ...any) {
	rule := rules[code]
	e.defects = append(e.defects, Defect{
		Code: code, Severity: rule.severity, File: file, What: fmt.Sprintf(format, args...),
		Follows: e.fill(rule.follows, file), Mend: e.fill(rule.mend, file),
	})
}

// fill puts the names of files into the text of a rule.
func (e *examination) fill(text, file string) string {
	root := "ROOT"
	if len(e.names.roots) > 0 {
		root = e.names.bundle(e.files)
	}
	return strings.NewReplacer("FILE", file, "ISSUER_KEY", orElse(e.names.key, "KEY"), "ISSUER", orElse(e.names.issuer, "ISSUER"), "ROOTS", root,
		"DOMAIN", e.opts.TrustDomain.Name()).Replace(text)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// errors are the defects for which a CA is refused.
func (e *examination) errors() refusal { return errorsOf(e.defects) }

func errorsOf(defects []Defect) (all refusal) {
	for _, d := range defects {
		if d.Severity == Error {
			all = append(all, d)
		}
	}
	return all
}
