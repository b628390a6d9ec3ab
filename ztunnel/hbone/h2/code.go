// SPDX-License-Identifier: Apache-2.0

package h2

import "fmt"

// Code is an HTTP/2 error code, RFC 9113 §7.
type Code uint32

// The codes.
const (
	CodeNone Code = iota
	CodeProtocol
	CodeInternal
	CodeFlowControl
	CodeSettingsTimeout
	CodeStreamClosed
	CodeFrameSize
	CodeRefused
	CodeCancel
	CodeCompression
	CodeConnect
	CodeCalm
	CodeSecurity
)

var codeNames = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR",
	"SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL",
	"COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY"}

// String is the name that RFC 9113 gives it.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error code %d", uint32(c))
}

// Violation is what a peer did against the protocol, or a limit. The connection
// ends with Code.
type Violation struct {
	Code   Code
	Reason string
}

// Error names both.
func (v *Violation) Error() string { return fmt.Sprintf("%v: %s", v.Code, v.Reason) }

func violated(c Code, format string, args ...any) error {
	return &Violation{c, fmt.Sprintf(format, args...)}
}
