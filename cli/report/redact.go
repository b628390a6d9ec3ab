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
	cutKey     = regexp.MustCompile(`\A(?s:[^-]*)-----END [A-Z0-9 ]*PRIVATE KEY-----`) // a log may begin within one
	encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi(?:[A-Za-z0-9+/]|\n|\\n)+={0,2}`)   // base64 of "-----BEGIN", in lines
	// An expression that begins with a text is a hundred times faster than one of several.
	tokens = []*regexp.Regexp{
		regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`), // a JWT
		regexp.MustCompile(`culvert-join\.[A-Za-z0-9._-]+`),
		regexp.MustCompile(`AGE-SECRET-KEY-1[A-Z0-9]+`),
		regexp.MustCompile(`hv[sbr]\.[A-Za-z0-9_-]{8,}`), // of Vault
	}
	// What follows a name is a secret: in a URL, and among a container's arguments.
	named = []*regexp.Regexp{
		regexp.MustCompile(`(://[^/@\s:"]*:)[^/@\s"]+@`),
		regexp.MustCompile(`(?i)([?&](?:access_)?(?:token|password|secret|api_?key)=)[^&\s"]+`),
		regexp.MustCompile(`(?i)(--?[a-z-]*(?:password|passphrase|secret|token)=)[^\s",]+`),
		regexp.MustCompile(`(?i)(x-vault-token\\?["']?\s*[:=,]\s*(?:\\?["']?value\\?["']?\s*:\s*)?\\?["']?)[^\s"',}]+`),
	}
	header = regexp.MustCompile(`(?i)((?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?(?:[a-z]+\s+)?|\bbearer\s+)([A-Za-z0-9._~+/-]{8,}=*)`)
)

// Redact returns a text without what is known by its look to be a private key or a token:
// as PEM, as PEM in base64, as a JWT, as an HTTP header, a URL or an argument says it, and
// those that culvert and Vault make. What remains is all of the text, so that it can be searched for certificates.
func Redact(text []byte) []byte {
	text = cutKey.ReplaceAll(text, []byte(removed))
	text = privateKey.ReplaceAll(text, []byte(removed))
	text = encodedPEM.ReplaceAllFunc(text, func(encoded []byte) []byte {
		whole := bytes.ReplaceAll(bytes.ReplaceAll(bytes.TrimRight(encoded, "="), []byte("\n"), nil), []byte(`\n`), nil)
		decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(whole)))
		n, _ := base64.RawStdEncoding.Decode(decoded, whole) // as far as it is base64
		if bytes.Contains(decoded[:n], []byte("PRIVATE KEY")) {
			return []byte(removed)
		}
		return encoded
	})
	for _, token := range tokens {
		text = token.ReplaceAll(text, []byte(removed))
	}
	for _, secret := range named {
		text = secret.ReplaceAll(text, []byte("${1}"+removed))
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
