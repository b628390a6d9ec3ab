// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"os"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// sending is the writing side; Conn.wmu guards it.
type sending struct {
	out  half
	werr error // why nothing more can be sent

	begun     *Batch // that Begin could not even begin
	unsent    []byte // of the write under way
	unsentErr error
	writeFn   func(uintptr) bool
	tryFn     func(uintptr) bool // writeFn, but without waiting
}

// WriteBatch sends the Batch in one write and empties it. An error is final: what
// follows could not be told from what got lost.
func (c *Conn) WriteBatch(b *Batch) error {
	c.wmu.Lock()
	defer c.doneSending()
	defer b.Reset()
	return c.writeBatch(b)
}

// Begin is WriteBatch as far as that goes without waiting. If it reports false,
// the caller keeps the Batch and calls Finish, and nothing else is sent before.
func (c *Conn) Begin(b *Batch) (done bool, err error) {
	c.wmu.Lock()
	defer c.doneSending()
	if err := c.mayWrite(); err != nil {
		return true, err
	}
	if c.raw == nil || c.updateDue(uint64(b.n)) {
		c.begun = b
		return false, nil
	}
	c.unsent, c.unsentErr = b.seal(&c.out), nil
	err = c.raw.Write(c.tryFn)
	if err == nil {
		err = c.unsentErr
	}
	if err != nil {
		c.unsent = nil
		c.endSending(err)
	}
	return len(c.unsent) == 0, err
}

// Finish sends, and waits for, what Begin left.
func (c *Conn) Finish() error {
	c.wmu.Lock()
	defer c.doneSending()
	if b := c.begun; b != nil {
		c.begun = nil
		return c.writeBatch(b)
	}
	rest := c.unsent
	c.unsent = nil
	if c.werr != nil {
		return c.werr
	}
	return c.write(rest)
}

// Write sends p by way of Batches.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.doneSending()
	if len(p) == 0 {
		return 0, c.mayWrite()
	}
	b := TakeBatch(len(p))
	defer b.Release()
	total := 0
	for total < len(p) {
		b.Reset()
		n := b.Append(p[total:])
		if err := c.writeBatch(b); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

func (c *Conn) writeBatch(b *Batch) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	if b.Len() == 0 {
		return nil
	}
	if err := c.updateKey(uint64(b.n)); err != nil {
		return err
	}
	return c.write(b.seal(&c.out))
}

// mayWrite is why nothing can be sent, nil if it can.
func (c *Conn) mayWrite() error {
	if fault := c.fatal.Load(); fault != nil && c.werr == nil {
		return fault // lastWords follow
	}
	if c.werr != nil {
		return c.werr
	}
	return c.out.wake()
}

// endSending notes the first reason why nothing more can be sent.
func (c *Conn) endSending(err error) {
	if c.werr == nil {
		c.werr = err
		c.out.forget()
	}
}

func (c *Conn) write(p []byte) error {
	if err := c.writeAll(p); err != nil {
		c.endSending(err)
	}
	return c.werr
}

// writeAll waits for room as often as it takes.
func (c *Conn) writeAll(p []byte) error {
	if c.raw == nil {
		n, err := c.socket.Write(p)
		c.written.Add(uint64(n))
		return err
	}
	c.unsent, c.unsentErr = p, nil
	err := c.raw.Write(c.writeFn)
	c.unsent = nil
	if err == nil {
		err = c.unsentErr
	}
	return err
}

// writeSome writes what there is room for, and has RawConn.Write wait for more.
func (c *Conn) writeSome(fd uintptr) bool {
	for len(c.unsent) > 0 {
		n, err := socket.Write(fd, c.unsent)
		switch {
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			c.unsentErr = os.NewSyscallError("write", err)
			return true
		}
		c.unsent = c.unsent[n:]
		c.written.Add(uint64(n))
	}
	return true
}

// updateKey sends a KeyUpdate ahead of some records if they would exceed the
// key's limit, if the peer asked for it, or to ask the peer, RFC 8446 §4.6.3.
func (c *Conn) updateKey(records uint64) error {
	if !c.updateDue(records) {
		return nil
	}
	ask := c.overused.Swap(false)
	c.owed.Store(false)
	content := [5]byte{messageKeyUpdate, 0, 0, 1, 0}
	if ask {
		content[4] = 1
	}
	var rec [overhead + len(content)]byte
	copy(rec[headerSize:], content[:])
	c.out.seal(rec[:], typeHandshake)
	if err := c.write(rec[:]); err != nil {
		return err
	}
	if err := c.out.update(); err != nil {
		c.endSending(err)
	}
	return c.werr
}

func (c *Conn) updateDue(records uint64) bool {
	return c.owed.Load() || c.overused.Load() || c.out.seq+records >= c.keyLimit
}

// CloseWrite sends a close_notify: no more comes, but the peer may go on, RFC 8446 §6.1.
func (c *Conn) CloseWrite() error {
	c.wmu.Lock()
	defer c.doneSending()
	if c.werr == errShutdown {
		return nil
	}
	if err := c.mayWrite(); err != nil {
		return err
	}
	rec := c.sealAlert(alertLevelWarning, alertCloseNotify)
	err := c.write(rec[:])
	c.endSending(errShutdown)
	return err
}

// Levels of alerts, RFC 8446 §6.
const (
	alertLevelWarning = 1
	alertLevelFatal   = 2
)

func (c *Conn) sealAlert(level byte, alert tls.AlertError) *[overhead + 2]byte {
	rec := new([overhead + 2]byte)
	rec[headerSize], rec[headerSize+1] = level, byte(alert)
	c.out.seal(rec[:], typeAlert)
	return rec
}

// alertTimeout bounds the alert on what is no socket and therefore may block.
const alertTimeout = time.Second

// doneSending unlocks the writing side. A goroutine that finds it locked in lastWords
// leaves them to the one that holds it.
func (c *Conn) doneSending() {
	if c.resting.Load() {
		c.out.sleep()
	}
	c.wmu.Unlock()
	c.lastWords()
}

// lastWords ends the writing side after a fatal alert. If it was ours, the peer is told,
// if that can be done at once: the receiving goroutine must not wait for a sending one.
func (c *Conn) lastWords() {
	fault := c.fatal.Load()
	if fault == nil || !c.wmu.TryLock() {
		return
	}
	defer c.wmu.Unlock()
	if c.werr != nil {
		return
	}
	if !fault.Remote && len(c.unsent) == 0 && c.out.wake() == nil {
		rec := c.sealAlert(alertLevelFatal, fault.Alert)
		c.tryWrite(rec[:])
	}
	c.endSending(fault)
}

func (c *Conn) tryWrite(p []byte) {
	if c.raw == nil {
		c.socket.SetWriteDeadline(time.Now().Add(alertTimeout))
		c.socket.Write(p)
		return
	}
	c.raw.Write(func(fd uintptr) bool {
		socket.Write(fd, p)
		return true
	})
}
