// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"errors"
)

// Error is how a connection ended that did not end in order: by a fatal alert of
// the peer, or by ours for what the peer did.
type Error struct {
	Alert  tls.AlertError // its description, RFC 8446 §6
	Remote bool           // the peer sent it
	Reason string         // what the peer did, if it was ours
}

// Error says which side ended the connection, and why.
func (e *Error) Error() string {
	if e.Remote {
		return "peer sent alert: " + e.Alert.Error()
	}
	return e.Reason + " (" + e.Alert.Error() + ")"
}

// ErrUnsupported says that the handshake agreed on something that only
// crypto/tls can carry on.
var ErrUnsupported = errors.New("not for this record layer")

// OtherCipher is the ErrUnsupported of a handshake that went well, and chose
// ChaCha20-Poly1305: crypto/tls does wherever one side has no AES instructions,
// and asks nobody. Conn goes on with that, if the caller wants it to.
type OtherCipher struct{ Conn *tls.Conn }

// Error names the cipher.
func (o *OtherCipher) Error() string {
	return ErrUnsupported.Error() + ": " + tls.CipherSuiteName(o.Conn.ConnectionState().CipherSuite)
}

// Unwrap returns ErrUnsupported.
func (o *OtherCipher) Unwrap() error { return ErrUnsupported }

var errShutdown = errors.New("write after close_notify")

// Alerts of RFC 8446 §6.
const (
	alertCloseNotify       tls.AlertError = 0
	alertUnexpectedMessage tls.AlertError = 10
	alertBadRecordMAC      tls.AlertError = 20
	alertRecordOverflow    tls.AlertError = 22
	alertIllegalParameter  tls.AlertError = 47
	alertDecodeError       tls.AlertError = 50
	alertProtocolVersion   tls.AlertError = 70
	alertInternalError     tls.AlertError = 80
	alertUserCanceled      tls.AlertError = 90
)

func violation(alert tls.AlertError, reason string) *Error {
	return &Error{Alert: alert, Reason: reason}
}
