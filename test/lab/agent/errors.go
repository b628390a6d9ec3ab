// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Error is what an operation ended with in the agent's process. errors.Is
// matches it with a syscall.Errno, io.EOF, net.ErrClosed and
// os.ErrDeadlineExceeded.
type Error struct {
	Op       string        `json:"op"`
	Errno    int           `json:"errno,omitempty"`
	Name     string        `json:"name,omitempty"` // ECONNREFUSED
	Text     string        `json:"text"`
	TimedOut bool          `json:"timedOut,omitempty"`
	Closed   bool          `json:"closed,omitempty"`
	EOF      bool          `json:"eof,omitempty"`
	Elapsed  time.Duration `json:"elapsed"` // from the operation's start to its end
}

func (e *Error) Error() string {
	if e.Name != "" {
		return fmt.Sprintf("%s: %s (%s)", e.Op, e.Text, e.Name)
	}
	return e.Op + ": " + e.Text
}

// Is reports whether the agent's error was target there.
func (e *Error) Is(target error) bool {
	if errno, ok := target.(syscall.Errno); ok {
		return e.Errno != 0 && e.Errno == int(errno)
	}
	switch target {
	case os.ErrDeadlineExceeded, context.DeadlineExceeded:
		return e.TimedOut
	case net.ErrClosed, os.ErrClosed:
		return e.Closed
	case io.EOF:
		return e.EOF
	}
	return false
}

// Timeout makes the error a net.Error.
func (e *Error) Timeout() bool { return e.TimedOut }

// Temporary makes the error a net.Error.
func (e *Error) Temporary() bool { return e.TimedOut }

// newError describes err for the other process.
func newError(op string, err error, elapsed time.Duration) *Error {
	e := &Error{Op: op, Text: err.Error(), Elapsed: elapsed}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.Errno, e.Name = int(errno), unix.ErrnoName(errno)
	}
	e.TimedOut = errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	e.Closed = errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed)
	e.EOF = errors.Is(err, io.EOF)
	return e
}

// endOf is the word that a Served record and a Crowd's count keep of an error.
func endOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return "EOF"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, os.ErrClosed):
		return "closed"
	default:
		return err.Error()
	}
}
