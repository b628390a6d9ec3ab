// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/buffer"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// maxSegments is the records that one Receive opens.
const maxSegments = 64

// receiving is the reading side; Conn.rmu guards it.
type receiving struct {
	in   half
	rerr error // why nothing more comes
	messages

	// buf holds what was read: records still to be opened in [r:w), the last of
	// them often in part, and before r what Receive has returned.
	buf  *buffer.Buffer
	r, w int

	reads buffer.Fit // which of readSizes the buffer to read into has

	segments *[maxSegments][]byte // of the last Receive
	rest     [][]byte             // of them, what Read did not copy yet
	readFn   func(uintptr) bool
	got      int // of readFn
	gotErr   error
	hasty    bool // readFn does not wait
}

// Receive waits for application data and returns what one read brought, opened
// in place: up to 64 segments, none empty, valid until the next Receive or Read.
//
// It ends with io.EOF after the peer's close_notify, with io.ErrUnexpectedEOF if
// the peer's FIN came without one, with an *Error, or with the socket's error.
// Only after os.ErrDeadlineExceeded it may go on.
func (c *Conn) Receive() ([][]byte, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.receive()
}

// Arrived is Receive if that need not wait, else nothing. An error is the next Receive's
// to tell.
func (c *Conn) Arrived() [][]byte {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.raw == nil {
		return nil
	}
	c.hasty = true
	segments, _ := c.receive()
	c.hasty = false
	return segments
}

// Read is Receive for a caller that wants a copy.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.rest) == 0 {
		rest, err := c.receive()
		if err != nil {
			return 0, err
		}
		c.rest = rest
	}
	total := 0
	for len(c.rest) > 0 && total < len(p) {
		n := copy(p[total:], c.rest[0])
		total += n
		if c.rest[0] = c.rest[0][n:]; len(c.rest[0]) == 0 {
			c.rest = c.rest[1:]
		}
	}
	if len(c.rest) == 0 && c.r == c.w {
		c.settle()
	}
	return total, nil
}

func (c *Conn) receive() ([][]byte, error) {
	c.rest = nil
	c.getUp()
	for {
		if segments := c.openAll(); len(segments) > 0 {
			return segments, nil // an error that came behind them is for the next call
		}
		if c.rerr != nil {
			c.settle()
			return nil, c.rerr
		}
		if err := c.fill(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) && err != syscall.EAGAIN {
				c.endReceiving(err)
			}
			c.settle()
			return nil, err
		}
	}
}

// endReceiving notes the first reason why nothing more comes.
func (c *Conn) endReceiving(err error) {
	if c.rerr == nil {
		c.rerr = err
		c.in.forget()
	}
}

// openAll opens what whole records are in hand.
func (c *Conn) openAll() [][]byte {
	if c.segments == nil {
		c.segments = takeSegments()
	}
	segments := c.segments[:0]
	for c.rerr == nil && len(segments) < maxSegments {
		rec, fault := c.nextRecord()
		if rec == nil && fault == nil {
			break
		}
		var data []byte
		if fault == nil {
			data, fault = c.openRecord(rec)
		}
		if fault != nil {
			c.blame(fault)
		}
		if len(data) > 0 {
			segments = append(segments, data)
		}
	}
	return segments
}

// nextRecord cuts a record off, nil if it is not all there. What its header says
// is checked before the rest has come.
func (c *Conn) nextRecord() ([]byte, *Error) {
	if c.w-c.r < headerSize {
		return nil, nil
	}
	b := c.buf.Bytes[c.r:c.w]
	n := int(binary.BigEndian.Uint16(b[3:]))
	switch {
	case b[0] != typeApplicationData:
		// After the handshake all records are protected and look like
		// application data, RFC 8446 §5.2; a change_cipher_spec is refused, §5.
		return nil, violation(alertUnexpectedMessage, "record that is not protected")
	case binary.BigEndian.Uint16(b[1:]) != version12:
		return nil, violation(alertProtocolVersion, "record of another version")
	case n > maxCiphertext:
		return nil, violation(alertRecordOverflow, "record longer than 2^14+256 bytes")
	case n < tagSize:
		return nil, violation(alertBadRecordMAC, "record shorter than its tag")
	case len(b) < headerSize+n:
		return nil, nil
	}
	c.r += headerSize + n
	return b[: headerSize+n : headerSize+n], nil
}

// openRecord opens a record and acts on it, if it is not application data.
func (c *Conn) openRecord(rec []byte) (data []byte, fault *Error) {
	switch c.in.seq {
	case c.keyLimit:
		c.overused.Store(true) // the next Batch asks for another key
	case 2 * c.keyLimit:
		return nil, violation(alertUnexpectedMessage, "peer uses its key for too long")
	}
	content, kind, fault := c.in.open(rec)
	if fault != nil {
		return nil, fault
	}
	if kind == typeApplicationData && len(content) > 0 && c.between() {
		c.useless = 0
		return content, nil
	}
	return nil, c.control(kind, content)
}

// fill reads from the socket, at least a byte.
func (c *Conn) fill() error {
	var err error
	if c.raw == nil {
		c.makeRoom()
		c.got, err = c.socket.Read(c.buf.Bytes[c.w:])
	} else if err = c.raw.Read(c.readFn); err == nil {
		err = c.gotErr
	}
	switch {
	case err == syscall.EAGAIN: // hasty
		return err
	case err == nil && c.got == 0, err == io.EOF && c.got == 0:
		return io.ErrUnexpectedEOF // could be an attacker's FIN, RFC 8446 §6.1
	case c.got == 0:
		return err
	}
	c.reads.Learn(readSizes, c.got, len(c.buf.Bytes)-c.w)
	c.w += c.got
	c.got = 0
	return nil
}

// readSome reads what there is, or has RawConn.Read wait, with no more of a
// buffer than a record in part needs.
func (c *Conn) readSome(fd uintptr) bool {
	c.makeRoom()
	c.got, c.gotErr = socket.Read(fd, c.buf.Bytes[c.w:])
	if c.gotErr == syscall.EAGAIN {
		c.got = 0
		c.settle()
		return c.hasty
	}
	if c.gotErr != nil {
		c.gotErr = os.NewSyscallError("read", c.gotErr)
	}
	return true
}

// makeRoom provides a buffer that is large enough and has the record in part at
// its beginning. The segments of the last Receive are void from here on.
func (c *Conn) makeRoom() {
	if size := c.reads.Size(readSizes); c.buf == nil || len(c.buf.Bytes) < size {
		c.move(size)
	} else if c.r > 0 {
		c.w = copy(c.buf.Bytes, c.buf.Bytes[c.r:c.w])
		c.r = 0
	}
}

// settle keeps only as large a buffer as there are bytes left. The segments of
// the last Receive are void from here on.
func (c *Conn) settle() {
	if c.segments != nil {
		releaseSegments(c.segments)
		c.segments = nil
	}
	if c.buf == nil {
		return
	}
	if c.r == c.w || c.rerr != nil {
		c.buf.Release()
		c.buf, c.r, c.w = nil, 0, 0
	} else if size := buffers.Size(c.w - c.r); size < len(c.buf.Bytes) {
		c.move(size)
	}
}

// move goes on in a buffer of another size.
func (c *Conn) move(size int) {
	buf := buffers.Take(size)
	if c.buf != nil {
		c.w = copy(buf.Bytes, c.buf.Bytes[c.r:c.w])
		c.r = 0
		c.buf.Release()
	}
	c.buf = buf
}
