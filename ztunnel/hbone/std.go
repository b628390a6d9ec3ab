// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// alertSize is the bytes of an alert, RFC 8446 §6.
const alertSize = 2

// tlsWire is crypto/tls over a tlsSocket. crypto/tls reads and writes a record at a time;
// the tlsSocket moves many a syscall.
type tlsWire struct {
	*tls.Conn
	socket tlsSocket

	some   bool           // crypto/tls may have bytes that need no read of the socket
	opened *buffer.Buffer // of the last Receive, or nil
	pieces [1][]byte
}

func std(ctx context.Context, socket net.Conn, client bool, config *tls.Config) (wire, tls.ConnectionState, error) {
	full := config.Clone()
	full.DynamicRecordSizingDisabled = true // small records would save a browser time, not us
	w := &tlsWire{socket: tlsSocket{Conn: socket}}
	w.Conn = tls.Server(&w.socket, full)
	if client {
		w.Conn = tls.Client(&w.socket, full)
	}
	if err := w.HandshakeContext(ctx); err != nil {
		return nil, w.ConnectionState(), err
	}
	w.begin()
	return w, w.ConnectionState(), nil
}

// begin ends the handshake.
func (w *tlsWire) begin() {
	w.socket.begin()
	w.some = true // what came behind the handshake
}

// Receive returns what one read of the socket brought, as one piece. While it waits it
// holds no buffer.
func (w *tlsWire) Receive() ([][]byte, error) {
	w.letGo()
	for {
		if w.some {
			if n, err := w.open(); n > 0 {
				w.pieces[0] = w.opened.Bytes[:n]
				return w.pieces[:], nil
			} else if err != nil {
				return nil, err
			}
		}
		if err := w.socket.fill(); err != nil {
			return nil, err
		}
		w.some = true
	}
}

// open has crypto/tls open the records that are in hand. An error that comes behind some
// bytes comes again.
func (w *tlsWire) open() (n int, err error) {
	w.opened = sealed.Take(w.socket.inHand())
	for n < len(w.opened.Bytes) && err == nil {
		var k int
		k, err = w.Read(w.opened.Bytes[n:])
		n += k
	}
	if errors.Is(err, errWouldWait) {
		w.some, err = false, nil
	}
	if beyond := w.socket.overrun(); beyond != nil {
		n, err = 0, beyond
	}
	if n == 0 {
		w.letGo()
	}
	return n, err
}

// letGo gives back what the last Receive returned.
func (w *tlsWire) letGo() {
	if w.opened != nil {
		w.opened.Release()
		w.opened = nil
	}
}

// Rest is as record.Conn's.
func (w *tlsWire) Rest(ready func()) socket.Ticket {
	if w.some || !w.socket.idle() {
		return 0
	}
	w.letGo()
	ticket, err := socket.Wait(w.socket.raw, ready)
	if err != nil {
		return 0
	}
	return ticket
}

// WriteBatch sends all records of a batch, by one write if the socket takes them.
func (w *tlsWire) WriteBatch(b *record.Batch) error {
	if err := w.seal(b); err != nil {
		return err
	}
	return w.Finish()
}

// Begin is WriteBatch as far as it goes without waiting.
func (w *tlsWire) Begin(b *record.Batch) (bool, error) {
	if err := w.seal(b); err != nil {
		return true, err
	}
	return w.socket.flush(false)
}

// Finish writes what Begin left.
func (w *tlsWire) Finish() error {
	_, err := w.socket.flush(true)
	return err
}

// seal gathers a batch's records.
func (w *tlsWire) seal(b *record.Batch) error {
	w.socket.gather(b.Len() + tlsOverhead*record.MaxRecords)
	defer w.socket.gathered()
	for p := range b.Plaintext() {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// CloseWrite says goodbye, as soon as the socket takes it.
func (w *tlsWire) CloseWrite() error {
	w.socket.gather(tlsOverhead + alertSize)
	err := w.Conn.CloseWrite()
	w.socket.gathered()
	w.socket.close()
	if err != nil {
		return err
	}
	// crypto/tls leaves a deadline that is over.
	if err := w.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	return w.Finish()
}

// Held is the memory that a batch takes in the wire while it waits for the socket.
func (w *tlsWire) Held() int { return w.socket.held() }

// Written counts the bytes that the socket took. Those of the handshake are among
// them, which does no harm: TCP acknowledges bytes in sequence, so a stream's bytes are
// acknowledged only after the handshake's.
func (w *tlsWire) Written() uint64 { return w.socket.written.Load() }

// Close does not say goodbye, which could block.
func (w *tlsWire) Close() error { return w.socket.Conn.Close() }
