// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"

	"github.com/culvert-mesh/culvert/identity/signing"
)

// What is read of a file before anything is decoded: CVE-2024-12401 is a parser that
// took what it was given.
const (
	maxChain  = 64 << 10 // one key, or the issuer with its intermediates
	maxBundle = 1 << 20  // roots
	maxCerts  = 16       // in a chain
	maxRoots  = 512      // in a bundle
)

var pemBegin = []byte("-----BEGIN ")

// blocks returns the PEM blocks of a file, and nothing if it has a defect. Text
// around the blocks is skipped, as openssl x509 -text writes it. No defect quotes
// the content: it may be a key.
func (e *examination) blocks(name string, longest, most int) []*pem.Block {
	text, there := e.files[name]
	switch {
	case !there:
		e.report(fileMissing, name, "%s is missing", name)
		return nil
	case len(bytes.TrimSpace(text)) == 0:
		e.report(fileEmpty, name, "%s is empty", name)
		return nil
	case len(text) > longest:
		e.report(fileTooLong, name, "%s is longer than %d bytes", name, longest)
		return nil
	}
	segments := segmentsOf(text)
	if len(segments) == 0 {
		e.reportNoPEM(name, text)
		return nil
	}
	if len(segments) > most {
		e.report(tooManyBlocks, name, "%s holds %d PEM blocks, the limit is %d", name, len(segments), most)
		return nil
	}
	var blocks []*pem.Block
	for _, s := range segments {
		block, _ := pem.Decode(s.text)
		if block == nil {
			e.report(brokenPEM, name, "%s: the PEM block that begins in line %d is cut off or not base64", name, s.line)
			return nil
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// segment is a text that begins with a PEM block and ends before the next one.
type segment struct {
	text []byte
	line int // in the file, from 1
}

// segmentsOf divides a text: pem.Decode silently skips a block that it cannot read.
func segmentsOf(text []byte) (segments []segment) {
	line := 1
	for {
		start := bytes.Index(text, pemBegin)
		if start < 0 {
			return segments
		}
		line += bytes.Count(text[:start], []byte("\n"))
		end := len(text)
		if next := bytes.Index(text[start+len(pemBegin):], pemBegin); next >= 0 {
			end = start + len(pemBegin) + next
		}
		segments = append(segments, segment{text[start:end], line})
		line += bytes.Count(text[start:end], []byte("\n"))
		text = text[end:]
	}
}

// reportNoPEM says what a file is that should have been PEM.
func (e *examination) reportNoPEM(name string, text []byte) {
	var whole asn1.RawValue
	switch _, err := asn1.Unmarshal(text, &whole); {
	case bytes.Contains(text, []byte("-\x00-\x00")):
		e.report(utf16, name, "%s is UTF-16 text", name)
	case err == nil && isPKCS12(whole):
		e.report(pkcs12, name, "%s is PKCS#12", name)
	case err == nil && whole.Tag == asn1.TagSequence:
		e.report(inDER, name, "%s is DER", name)
	default:
		e.report(noPEM, name, "%s holds no PEM", name)
	}
}

// isPKCS12 reports whether it begins as a PFX does: with the version 3 (RFC 7292, 4).
func isPKCS12(whole asn1.RawValue) bool {
	var version int
	_, err := asn1.Unmarshal(whole.Bytes, &version)
	return err == nil && version == 3
}

// certificates reads a file that holds nothing but certificates.
func (e *examination) certificates(name string, longest, most int) (all []certificate) {
	blocks := e.blocks(name, longest, most)
	for i, block := range blocks {
		c := certificate{file: name, number: i + 1, of: len(blocks)}
		if !e.isCertificate(c, block) {
			return nil
		}
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			e.report(certUnreadable, name, "%s cannot be read: %v", c, err)
			return nil
		}
		c.Certificate = parsed
		all = append(all, c)
	}
	return all
}

func (e *examination) isCertificate(c certificate, block *pem.Block) bool {
	switch kind := block.Type; {
	case kind == "CERTIFICATE":
		return true
	case isPrivateKey(kind):
		e.report(privateAmongCerts, c.file, "%s holds a %q beside certificates", c.file, kind)
	case kind == pemCSR, kind == "NEW "+pemCSR:
		e.report(csrForCert, c.file, "%s is a request for a certificate (CSR)", c)
	case kind == "X509 CRL":
		e.report(crlForCert, c.file, "%s is a list of revoked certificates (CRL)", c)
	default:
		e.report(otherForCert, c.file, `%s is a %q, want a "CERTIFICATE"`, c, kind)
	}
	return false
}

// certificate is one that a file holds.
type certificate struct {
	*x509.Certificate
	file       string
	number, of int // its place in the file, from 1
}

// String says where it was found.
func (c certificate) String() string {
	if c.of == 1 {
		return c.file
	}
	return fmt.Sprintf("%s, certificate %d", c.file, c.number)
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// encodeKey is a private key, or what stands for one of a signer.
func encodeKey(key crypto.Signer) ([]byte, error) {
	if held, ok := key.(*signing.Key); ok {
		return held.Reference(), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
