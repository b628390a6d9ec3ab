// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Port is where every worker serves.
const Port = 8080

// A connection begins with a header, which says what the server is to do.
const (
	sink   = 'S' // says ready, reads to the end, says how much it was
	source = 'D' // says ready, awaits a byte, writes for arg milliseconds
	echo   = 'E' // sends back each arg bytes
	push   = 'P' // sends arg bytes
	hold   = 'H' // says ready, then nothing
	prove  = 'V' // reads to the end, sends the hash of it and arg bytes more
	weigh  = 'W' // reads arg bytes, and the same
	relay  = 'R' // is the worker at the IPv4 address arg from now on
)

const (
	headerSize = 8
	writeSize  = 128 << 10
	readSize   = 256 << 10
)

var ready = []byte{'k'}

func header(mode byte, arg int) []byte {
	h := make([]byte, headerSize)
	h[0] = mode
	binary.BigEndian.PutUint32(h[4:], uint32(arg))
	return h
}

// server serves the port until the process ends.
type server struct {
	mu   sync.Mutex
	held []socket
}

func (s *server) serve(ln socket) {
	for {
		conn, err := ln.accept()
		if err != nil {
			return
		}
		go s.handle(conn)
	}
}

// handle serves one connection. Its errors are its client's to report.
func (s *server) handle(conn socket) {
	keep := false
	defer func() {
		if !keep {
			conn.close()
		}
	}()
	var h [headerSize]byte
	if conn.prepare() != nil {
		return
	}
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		return
	}
	arg := int(binary.BigEndian.Uint32(h[4:]))
	switch h[0] {
	case sink:
		serveSink(conn)
	case source:
		serveSource(conn, time.Duration(arg)*time.Millisecond)
	case echo:
		serveEcho(conn, arg)
	case push:
		_, _ = conn.Write(make([]byte, min(arg, 1<<20)))
	case prove:
		serveProof(conn, conn, arg)
	case weigh:
		serveProof(conn, io.LimitReader(conn, int64(arg)), arg)
	case relay:
		var to [4]byte
		binary.BigEndian.PutUint32(to[:], uint32(arg))
		serveRelay(conn, netip.AddrPortFrom(netip.AddrFrom4(to), Port))
	case hold:
		keep = s.park(conn)
	}
}

func serveSink(conn socket) {
	if _, err := conn.Write(ready); err != nil {
		return
	}
	var count [8]byte
	total, _ := readAll(conn) // an end too early shows by the count
	binary.BigEndian.PutUint64(count[:], total)
	_, _ = conn.Write(count[:])
}

// readAll reads to the end and counts.
func readAll(conn socket) (total uint64, err error) {
	buf := make([]byte, readSize)
	for {
		n, err := conn.Read(buf)
		total += uint64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func serveSource(conn socket, length time.Duration) {
	if _, err := conn.Write(ready); err != nil {
		return
	}
	var start [1]byte
	if _, err := io.ReadFull(conn, start[:]); err != nil {
		return
	}
	if _, err := writeFor(conn, length); err != nil {
		return
	}
	if conn.closeWrite() == nil {
		_, _ = readAll(conn) // until the client is done: a close now might reset
	}
}

// writeFor writes as much as goes out in a time.
func writeFor(conn socket, length time.Duration) (total uint64, err error) {
	buf := make([]byte, writeSize)
	for end := time.Now().Add(length); time.Now().Before(end); {
		n, err := conn.Write(buf)
		total += uint64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func serveEcho(conn socket, size int) {
	if size < 1 || size > 1<<20 {
		return
	}
	buf := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// serveProof lets the client see that bytes arrive as they were, both ways. To
// the end, that its half-close leaves the other half open.
func serveProof(conn socket, from io.Reader, size int) {
	h := sha256.New()
	buf := make([]byte, readSize)
	for {
		n, err := from.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	if _, err := conn.Write(h.Sum(nil)); err != nil {
		return
	}
	if _, err := conn.Write(noise(2, size)); err == nil {
		_ = conn.closeWrite()
		_, _ = readAll(conn)
	}
}

// serveRelay is the least that a proxy can cost: a thread for each direction.
func serveRelay(conn socket, to netip.AddrPort) {
	far, err := connect(to)
	if err != nil {
		return
	}
	defer far.close()
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() { pass(conn, far) })
	pass(far, conn)
}

func pass(dst, src socket) {
	buf := make([]byte, readSize)
	for {
		n, err := src.Read(buf)
		if err == nil {
			_, err = dst.Write(buf[:n])
		}
		if err != nil {
			_ = dst.closeWrite()
			return
		}
	}
}

// noise is bytes that look random and are known to both ends.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// Telltale is a part of what Prove sends: on the wire it shows that nobody
// encrypted.
func Telltale() []byte { return noise(1, 64) }

func (s *server) park(conn socket) bool {
	if _, err := conn.Write(ready); err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, conn)
	return true
}

// release closes what is parked.
func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.held {
		conn.close()
	}
	s.held = nil
}
