// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"io"

	"github.com/culvert-mesh/culvert/rate"
)

// uselessLimit is the records in a row without application data.
const uselessLimit = 32

// keyUpdateRate bounds KeyUpdates: each costs a key schedule. A key lasts for
// hundreds of gigabytes.
var keyUpdateRate = rate.Limit{PerSecond: 1, Burst: 32}

// Handshake messages that may come after the handshake, RFC 8446 §4.6.
const (
	messageTicket    = 4
	messageKeyUpdate = 24
)

// A NewSessionTicket is at least its fixed fields and a ticket of a byte, and at
// most those with all variable ones full, RFC 8446 §4.6.1.
const (
	minTicket = 4 + 4 + 1 + 2 + 1 + 2
	maxTicket = 4 + 4 + 1 + 255 + 2 + 65535 + 2 + 65534
)

// messages is what the reading side has seen that is no application data.
type messages struct {
	header  [4]byte // of the handshake message under way
	have    int     // bytes of it
	left    int     // bytes of the message's body that did not come yet
	request byte    // body of a KeyUpdate
	useless int
	updates rate.Left
}

// between reports that no handshake message is under way: they must not be
// interleaved with other records, RFC 8446 §5.1.
func (c *Conn) between() bool { return c.have == 0 }

// control acts on a record that brings no application data.
func (c *Conn) control(kind byte, content []byte) *Error {
	if c.useless++; c.useless > uselessLimit {
		return violation(alertUnexpectedMessage, "too many records without application data")
	}
	switch {
	case kind != typeHandshake && !c.between():
		return violation(alertUnexpectedMessage, "handshake message interrupted by another record")
	case kind == typeApplicationData:
		return nil // empty: a message for traffic analysis, RFC 8446 §5.4
	case kind == typeAlert:
		return c.alert(content)
	case kind == typeHandshake:
		return c.handshake(content)
	}
	return violation(alertUnexpectedMessage, "record of unknown content type")
}

// alert acts on an alert. Its level means nothing, RFC 8446 §6.
func (c *Conn) alert(content []byte) *Error {
	if len(content) != 2 { // neither split nor coalesced, RFC 8446 §5.1
		return violation(alertUnexpectedMessage, "alert that is not two bytes")
	}
	switch alert := tls.AlertError(content[1]); alert {
	case alertCloseNotify:
		c.endReceiving(io.EOF) // what follows is ignored, RFC 8446 §6.1
	case alertUserCanceled: // a close_notify is to follow, RFC 8446 §6.1
	default:
		return &Error{Alert: alert, Remote: true}
	}
	return nil
}

// handshake acts on a piece of handshake messages, which may be of several or of
// a part of one.
func (c *Conn) handshake(p []byte) *Error {
	if len(p) == 0 { // RFC 8446 §5.1
		return violation(alertUnexpectedMessage, "empty handshake record")
	}
	for len(p) > 0 {
		if c.have < len(c.header) {
			n := copy(c.header[c.have:], p)
			p = p[n:]
			if c.have += n; c.have < len(c.header) {
				return nil
			}
			if fault := c.beginMessage(); fault != nil {
				return fault
			}
		}
		n := min(c.left, len(p))
		if n > 0 {
			c.request = p[0] // all there is of a KeyUpdate; of a ticket nothing is kept
		}
		p = p[n:]
		if c.left -= n; c.left > 0 {
			return nil
		}
		c.have = 0
		if c.header[0] == messageKeyUpdate {
			return c.keyUpdate(len(p) == 0)
		}
	}
	return nil
}

// beginMessage checks a handshake message's header.
func (c *Conn) beginMessage() *Error {
	c.left = int(c.header[1])<<16 | int(c.header[2])<<8 | int(c.header[3])
	switch {
	case c.header[0] == messageKeyUpdate:
		if c.left != 1 {
			return violation(alertDecodeError, "KeyUpdate of another length than 1")
		}
	case c.header[0] == messageTicket && c.client: // only servers send them
		if c.left < minTicket || c.left > maxTicket {
			return violation(alertDecodeError, "NewSessionTicket of impossible length")
		}
	default: // RFC 8446 §4.6.2: a CertificateRequest without our post_handshake_auth too
		return violation(alertUnexpectedMessage, "handshake message after the handshake")
	}
	return nil
}

// keyUpdate changes the reading key and, if the peer asks, has the writing one
// changed, RFC 8446 §4.6.3.
func (c *Conn) keyUpdate(aligned bool) *Error {
	switch {
	case !aligned: // RFC 8446 §5.1
		return violation(alertUnexpectedMessage, "bytes behind a KeyUpdate under the old key")
	case c.request > 1:
		return violation(alertIllegalParameter, "KeyUpdate with an unknown request")
	case !c.updates.Spend(c.updateRate):
		return violation(alertUnexpectedMessage, "too many KeyUpdates")
	}
	if err := c.in.update(); err != nil {
		return violation(alertInternalError, "derive the peer's next key: "+err.Error())
	}
	c.overused.Store(false)
	if c.request == 1 {
		c.owed.Store(true)
	}
	return nil
}

// blame ends the connection for a fatal alert, the peer's or ours.
func (c *Conn) blame(fault *Error) {
	c.endReceiving(fault)
	c.fatal.Store(fault)
	c.lastWords()
}
