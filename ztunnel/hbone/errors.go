// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"fmt"
	"net/netip"
)

// Cause says why a stream could not be opened or did not end in order. Its
// value is the word of the access record; every error of this package is one
// (errors.As), or can be compared with one (errors.Is).
type Cause string

// The causes.
const (
	ErrDial     Cause = "dial"     // the tunnel's address or the app behind the peer did not answer
	ErrTLS      Cause = "tls"      // the peer could not prove to be whom we expect, or refused us
	ErrIdentity Cause = "identity" // no certificate of our own to prove who we are
	ErrExpired  Cause = "expired"  // the certificates that authenticated the tunnel ran out
	ErrDenied   Cause = "denied"   // the peer's policy (status 401), or Retire(Denied)
	ErrLimit    Cause = "limit"    // more than this process or the peer is willing to hold
	ErrReset    Cause = "reset"    // one of the two apps, the peer or the network broke it off
	ErrDrained  Cause = "drained"  // this end is shutting down
)

// Error is the word itself.
func (c Cause) Error() string { return string(c) }

// StatusError is the peer's refusal of a CONNECT.
type StatusError struct{ Code int }

// Error names the status.
func (e *StatusError) Error() string { return fmt.Sprintf("peer answered status %d", e.Code) }

// Unwrap is the Cause: ErrDenied for 401, else ErrDial.
func (e *StatusError) Unwrap() error {
	if e.Code == 401 {
		return ErrDenied
	}
	return ErrDial
}

// NoAnswerError says that the peer, to which there is a tunnel, did not answer a
// CONNECT before Why.
type NoAnswerError struct {
	Target netip.AddrPort
	Why    error
}

// Error names the target.
func (e *NoAnswerError) Error() string {
	return fmt.Sprintf("%v: no answer to CONNECT %v: %v", ErrDial, e.Target, e.Why)
}

// Unwrap is the Cause, and why nobody waited longer.
func (e *NoAnswerError) Unwrap() []error { return []error{ErrDial, e.Why} }

// code is an HTTP/2 error code, RFC 9113 §7.
type code uint32

const (
	codeNone code = iota
	codeProtocol
	codeInternal
	codeFlowControl
	codeSettingsTimeout
	codeStreamClosed
	codeFrameSize
	codeRefused
	codeCancel
	codeCompression
	codeConnect
	codeCalm
	codeSecurity
)

var codeNames = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR",
	"SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL",
	"COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY"}

func (c code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error code %d", uint32(c))
}

// tunnelError ends the tunnel: the peer broke the protocol, or a limit.
type tunnelError struct {
	code   code
	reason string
}

func (e *tunnelError) Error() string { return fmt.Sprintf("%v: %s", e.code, e.reason) }

// Unwrap is the Cause of the streams that end with the tunnel.
func (e *tunnelError) Unwrap() error {
	if e.code == codeCalm {
		return ErrLimit
	}
	return ErrReset
}

func violation(c code, format string, args ...any) error {
	return &tunnelError{c, fmt.Sprintf(format, args...)}
}

// notTaken marks a stream of which the peer says that it did nothing for it, or
// whose tunnel was lost or seems dead before any byte of the app was written to it:
// it may be opened again elsewhere.
type notTaken struct {
	err  error
	room bool // it was refused for want of room of which we did not know
}

func (e *notTaken) Error() string { return e.err.Error() }
func (e *notTaken) Unwrap() error { return e.err }
