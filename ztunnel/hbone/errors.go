// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// Cause says why a stream could not be opened or was broken off. Its
// value is the word of the access record; every error of this package is one
// (errors.As), or can be compared with one (errors.Is).
type Cause string

// The causes.
const (
	ErrDial     Cause = "dial"     // the tunnel's address or the app behind the peer did not answer
	ErrTLS      Cause = "tls"      // the peer could not prove to be whom we expect, or refused us
	ErrIdentity Cause = "identity" // no certificate of our own to prove who we are
	ErrExpired  Cause = "expired"  // the certificates that authenticated the tunnel ran out
	ErrDenied   Cause = "denied"   // the peer's policy (status 401), Retire(Denied), or a Credential's denial
	ErrLimit    Cause = "limit"    // more than this process or the peer is willing to hold
	ErrReset    Cause = "reset"    // one of the two apps, the peer or the network broke it off, or the last bytes may not have arrived, at the peer or at our app
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

// NoAnswerError says that the peer, to which there is or was a tunnel, did not answer a
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

// tunnelError ends the tunnel: the peer broke the protocol, or a limit.
type tunnelError struct{ *h2.Violation }

// Unwrap is the Cause of the streams that end with the tunnel.
func (e *tunnelError) Unwrap() error {
	if e.Code == h2.CodeCalm {
		return ErrLimit
	}
	return ErrReset
}

func broken(c h2.Code, format string, args ...any) error {
	return &tunnelError{&h2.Violation{Code: c, Reason: fmt.Sprintf(format, args...)}}
}

// tunnelErrorOf gives what is wrong with the peer's bytes its Cause.
func tunnelErrorOf(err error) error {
	if err == nil { // for every read of a tunnel: errors.As would allocate
		return nil
	}
	var v *h2.Violation
	if errors.As(err, &v) {
		return &tunnelError{v}
	}
	return err
}

// notTaken marks a stream of which the peer says that it did nothing for it, or
// whose tunnel was lost or seems dead before any byte of the app was written to it:
// it may be opened again elsewhere.
type notTaken struct {
	err  error
	room bool // it was refused because the tunnel was full, which we did not know
}

func (e *notTaken) Error() string { return e.err.Error() }
func (e *notTaken) Unwrap() error { return e.err }

// shownError marks the end of a tunnel whose peer had shown a certificate by then.
type shownError struct{ error }

func (e *shownError) Unwrap() error { return e.error }

// Shown reports whether the peer of a tunnel that failed had shown a certificate: then it
// is there and speaks TLS. ErrTLS alone is also what ends a handshake that nobody answers.
func Shown(err error) bool {
	_, is := errors.AsType[*shownError](err)
	return is
}
