// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// greeting precedes the byte that names a mode.
const greeting = "culvert"

const (
	modeBulk    = 'b'
	modeRequest = 'r'
	yes         = 'y'

	requestSize = 64
	block       = 128 << 10

	connectionsMost = 2048
	idleMost        = time.Minute
)

// Serve serves clients on ln until ctx ends. It closes ln, and all connections.
func Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	room := make(chan struct{}, connectionsMost)
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // of one connection, or descriptors are short
			if !rest(ctx, 50*time.Millisecond) {
				return nil
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		serving.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			_ = serve(conn) // the client knows
		})
	}
}

func serve(conn net.Conn) error {
	var hello [len(greeting) + 1]byte
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return err
	}
	mode := hello[len(greeting)]
	if string(hello[:len(greeting)]) != greeting || mode != modeBulk && mode != modeRequest {
		return errors.New("not a client")
	}
	if _, err := conn.Write([]byte{yes}); err != nil {
		return err
	}
	if mode == modeBulk {
		return count(conn)
	}
	return answer(conn)
}

// count reads to the end and says how much it was.
func count(conn net.Conn) error {
	buffer := make([]byte, block)
	var n uint64
	for {
		if err := conn.SetDeadline(time.Now().Add(idleMost)); err != nil {
			return err
		}
		read, err := conn.Read(buffer)
		n += uint64(read)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err := conn.Write(binary.BigEndian.AppendUint64(nil, n))
	return err
}

// answer sends back each request.
func answer(conn net.Conn) error {
	var request [requestSize]byte
	for {
		if err := conn.SetDeadline(time.Now().Add(idleMost)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, request[:]); err != nil {
			return err
		}
		if _, err := conn.Write(request[:]); err != nil {
			return err
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
