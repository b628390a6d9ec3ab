// SPDX-License-Identifier: Apache-2.0

package h2

// A header list is malformed if RFC 9113 §8.2 and §8.3 forbid one of its fields,
// or if the fields together are no CONNECT (§8.5), no answer to one, or no
// trailers. Its stream is reset with PROTOCOL_ERROR. An intermediary that reads
// such a list otherwise than we do could be used to smuggle a request.

// pseudo is a set of pseudo-header fields.
type pseudo uint8

const (
	pseudoMethod pseudo = 1 << iota
	pseudoAuthority
	pseudoStatus
	pseudoScheme
	pseudoPath
	pseudoProtocol // of extended CONNECT, which our SETTINGS do not offer
)

func pseudoOf(name string) pseudo {
	switch name {
	case ":method":
		return pseudoMethod
	case ":authority":
		return pseudoAuthority
	case ":status":
		return pseudoStatus
	case ":scheme":
		return pseudoScheme
	case ":path":
		return pseudoPath
	case ":protocol":
		return pseudoProtocol
	}
	return 0
}

// MalformedRequest says what is wrong with the list of a request, "" if nothing
// is. A well-formed request of another method than CONNECT is none of our errors.
func (f *Fields) MalformedRequest() string {
	switch {
	case f.problem != "":
		return f.problem
	case f.pseudo&pseudoStatus != 0:
		return ":status in a request"
	case f.pseudo&pseudoMethod == 0:
		return "request without :method"
	case f.host != "" && f.host != f.authority:
		return "host is not :authority"
	case f.method != "CONNECT":
		return ""
	case f.pseudo != pseudoMethod|pseudoAuthority:
		return "CONNECT needs :authority, and has neither :scheme, :path nor :protocol"
	case f.length != "" && f.length != "0":
		return "CONNECT with a content-length"
	}
	return ""
}

// malformedAnswer is malformedRequest for the answer to a CONNECT. Its
// content-length means nothing (RFC 9110 §9.3.6), or the body of a refusal that
// nobody reads.
func (f *Fields) malformedAnswer() string {
	switch {
	case f.problem != "":
		return f.problem
	case f.pseudo != pseudoStatus:
		return "an answer needs :status, and has no other pseudo-header field"
	case f.status == "101": // RFC 9113 §8.6
		return "status 101"
	}
	return ""
}

// MalformedTrailers is malformedRequest for the list behind the data.
func (f *Fields) MalformedTrailers() string {
	if f.problem == "" && f.pseudo != 0 {
		return "pseudo-header field in trailers"
	}
	return f.problem
}

// wrongField says why a regular field is forbidden, RFC 9113 §8.2; "" if it is not.
func wrongField(name, value string) string {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return "connection-specific field " + name
	case "te":
		if value != "trailers" {
			return "field te that is not trailers"
		}
	}
	if !isFieldName(name) {
		return "name of a field"
	}
	return wrongValue(value)
}

func wrongValue(value string) string {
	if !isFieldValue(value) {
		return "value of a field"
	}
	return ""
}

// isFieldName reports whether a regular field may bear the name: a token of
// RFC 9110 §5.6.2, in lower case.
func isFieldName(name string) bool {
	for i := range len(name) {
		if !isNameByte[name[i]] {
			return false
		}
	}
	return name != ""
}

var isNameByte = func() (set [256]bool) {
	for _, b := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		set[b] = true
	}
	return set
}()

// isFieldValue reports whether a field may have the value: no control character
// but tabs, and no blank at either end.
func isFieldValue(value string) bool {
	if value == "" {
		return true
	}
	if isBlank(value[0]) || isBlank(value[len(value)-1]) {
		return false
	}
	for i := range len(value) {
		if b := value[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }
