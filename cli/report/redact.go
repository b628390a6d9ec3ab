// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/base64"
	"regexp"
)

// removed stands where a secret was.
const removed = "(removed: it may be a secret)"

var (
	// In JSON a line ends with two characters. What is cut off ends nowhere.
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.)*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
	encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]+={0,2}`) // base64 of "-----BEGIN"
	// An expression that begins with a text is a hundred times faster than one of several.
	tokens = []*regexp.Regexp{
		regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`), // a JWT
		regexp.MustCompile(`culvert-join\.[A-Za-z0-9._-]+`),
		regexp.MustCompile(`AGE-SECRET-KEY-1[A-Z0-9]+`),
	}
	header = regexp.MustCompile(`(?i)((?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?(?:[a-z]+\s+)?|\bbearer\s+)([A-Za-z0-9._~+/-]{8,}=*)`)
)

// Redact returns a text without what is known by its look to be a private key or a token:
// as PEM, as PEM in base64, as a JWT, as an HTTP header says it, and those that culvert
// makes. What remains is all of the text, so that it can be searched for certificates.
func Redact(text []byte) []byte {
	text = privateKey.ReplaceAll(text, []byte(removed))
	text = encodedPEM.ReplaceAllFunc(text, func(encoded []byte) []byte {
		decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(encoded)))
		n, _ := base64.RawStdEncoding.Decode(decoded, bytes.TrimRight(encoded, "=")) // as far as it is base64
		if bytes.Contains(decoded[:n], []byte("PRIVATE KEY")) {
			return []byte(removed)
		}
		return encoded
	})
	for _, token := range tokens {
		text = token.ReplaceAll(text, []byte(removed))
	}
	return redactHeaders(text)
}

// redactHeaders looks at the lines that have a header's name.
func redactHeaders(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if lower := bytes.ToLower(line); bytes.Contains(lower, []byte("authorization")) || bytes.Contains(lower, []byte("bearer")) {
			line = header.ReplaceAll(line, []byte("${1}"+removed))
		}
		out = append(out, line...)
	}
	return out
}
