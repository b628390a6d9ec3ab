// SPDX-License-Identifier: Apache-2.0

// Package capture reads what passes a network namespace's devices and answers
// what a test asks of it: was this text on the wire, which TCP connections,
// were they TLS. It trusts nothing but the packets.
package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config says what to capture.
type Config struct {
	Device int   // index of the device, 0: all of the netns
	Ignore []int // indexes of devices; none
	Limit  int   // bytes of payload to keep; 64 MiB
}

// Capture is a capture in progress, or a stopped one. A question is answered
// about all packets that passed before it was asked.
type Capture struct {
	file   *os.File
	raw    syscall.RawConn
	ignore []int
	done   chan struct{}

	mu        sync.Mutex // guards what follows, and reading from the socket
	buf       []byte
	packets   []packet
	room      int
	truncated bool
	dropped   int
	err       error
}

// Open captures in the netns of the calling thread until Stop. On a bridge,
// each frame counts once: where it enters, not where it leaves.
func Open(c Config) (*Capture, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "capture")
	if err := prepare(fd, c.Device); err != nil {
		file.Close()
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	capture := &Capture{
		file: file, raw: raw, ignore: c.Ignore, done: make(chan struct{}),
		buf: make([]byte, 256<<10), room: c.Limit,
	}
	if capture.room == 0 {
		capture.room = 64 << 20
	}
	go capture.run()
	return capture, nil
}

func prepare(fd, device int) error {
	// The queue absorbs what arrives while this process waits for a CPU.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		return fmt.Errorf("enlarge the capture's buffer: %w", err)
	}
	all := uint16(unix.ETH_P_ALL)
	sa := &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: device}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind the capture to device %d: %w", device, err)
	}
	return nil
}

func (c *Capture) run() {
	defer close(c.done)
	_ = c.raw.Read(func(fd uintptr) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drain(int(fd))
		return c.err != nil
	})
}

// drain takes what the kernel has queued. c.mu is held.
func (c *Capture) drain(fd int) {
	for c.err == nil {
		n, from, err := unix.Recvfrom(fd, c.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			c.err = fmt.Errorf("read the capture: %w", err)
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || slices.Contains(c.ignore, ll.Ifindex) {
			continue
		}
		if n > len(c.buf) {
			c.truncated, n = true, len(c.buf)
		}
		c.keep(c.buf[:n])
	}
}

func (c *Capture) keep(data []byte) {
	p, ok := parse(data)
	if !ok {
		return
	}
	if len(p.payload) > c.room {
		c.truncated = true
		p.payload = nil
	}
	c.room -= len(p.payload)
	p.payload = bytes.Clone(p.payload)
	c.packets = append(c.packets, p)
}

// sync takes all packets that passed until now.
func (c *Capture) sync() ([]packet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.raw.Control(func(fd uintptr) {
		c.drain(int(fd))
		// Reading the statistics resets them.
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.dropped += int(st.Drops)
		}
	})
	switch {
	case c.err != nil:
		return c.packets, c.err
	case c.dropped > 0:
		return c.packets, fmt.Errorf("the capture is incomplete: the kernel dropped %d packets", c.dropped)
	case c.truncated:
		return c.packets, errors.New("the capture is incomplete: more bytes passed than it keeps")
	}
	return c.packets, nil
}

// Stop ends the capture; it can still be asked.
func (c *Capture) Stop() error {
	_, err := c.sync()
	c.file.Close()
	<-c.done
	return err
}

// Contains reports whether text was in a packet or in a TCP stream. A no from
// an incomplete capture is an error.
func (c *Capture) Contains(text []byte) (bool, error) {
	packets, err := c.sync()
	for _, p := range packets {
		if bytes.Contains(p.payload, text) {
			return true, nil
		}
	}
	for _, f := range flows(packets) {
		if bytes.Contains(f.Up, text) || bytes.Contains(f.Down, text) {
			return true, nil
		}
	}
	return false, err
}

// Flows lists the TCP connections that match, by first packet; nil matches all.
func (c *Capture) Flows(match func(Flow) bool) ([]Flow, error) {
	packets, err := c.sync()
	all := flows(packets)
	if match != nil {
		all = slices.DeleteFunc(all, func(f Flow) bool { return !match(f) })
	}
	return all, err
}
