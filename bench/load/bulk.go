// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// bulk moves bytes for a while and counts those that arrived.
func bulk(o Order) (Answer, error) {
	mode, arg := byte(sink), 0
	if o.Reverse {
		mode, arg = source, int(o.Duration.Milliseconds())
	}
	conns, err := openReady(o, o.Streams, mode, arg)
	defer closeAll(conns)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{PerStream: make([]uint64, len(conns))}
	var group errgroup.Group
	start := time.Now()
	for i, conn := range conns {
		group.Go(func() (err error) {
			if o.Reverse {
				a.PerStream[i], err = drain(conn)
			} else {
				a.PerStream[i], err = fill(conn, o.Duration)
			}
			return err
		})
	}
	err = group.Wait()
	a.Elapsed = time.Since(start)
	for _, n := range a.PerStream {
		a.Bytes += n
	}
	return a, err
}

// fill writes, and returns what the server says to have read.
func fill(conn socket, length time.Duration) (uint64, error) {
	sent, err := writeFor(conn, length)
	if err != nil {
		return 0, err
	}
	if err := conn.closeWrite(); err != nil {
		return 0, err
	}
	var count [8]byte
	if _, err := io.ReadFull(conn, count[:]); err != nil {
		return 0, fmt.Errorf("await the server's count: %w", err)
	}
	if got := binary.BigEndian.Uint64(count[:]); got != sent {
		return got, fmt.Errorf("of %d bytes %d arrived", sent, got)
	}
	return sent, nil
}

// drain reads what the server sends. It ends its own half at once: a server of
// x/net/http2 ends the other only when its handler returns, which waits for
// the end of the request.
func drain(conn socket) (uint64, error) {
	if _, err := conn.Write(ready); err != nil {
		return 0, err
	}
	if err := conn.closeWrite(); err != nil {
		return 0, err
	}
	n, err := readAll(conn)
	if err == nil && n == 0 {
		err = errors.New("the server sent nothing")
	}
	return n, err
}

// openReady opens connections whose servers are ready.
func openReady(o Order, count int, mode byte, arg int) (conns []socket, err error) {
	for range count {
		conn, err := connect(o.To)
		if err != nil {
			return conns, err
		}
		conns = append(conns, conn)
		if _, err := conn.Write(header(mode, arg)); err != nil {
			return conns, err
		}
	}
	var answer [1]byte
	for _, conn := range conns {
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return conns, fmt.Errorf("await the server: %w", err)
		}
	}
	return conns, nil
}

func closeAll(conns []socket) {
	for _, conn := range conns {
		conn.close()
	}
}

// proof moves Size bytes there and back and compares them. Unless Whole, it
// ends its half in between.
func proof(o Order) (Answer, error) {
	mode := byte(prove)
	if o.Whole {
		mode = weigh
	}
	conn, err := connect(o.To)
	if err != nil {
		return Answer{}, err
	}
	defer conn.close()
	there := noise(1, o.Size)
	if _, err := conn.Write(append(header(mode, o.Size), there...)); err != nil {
		return Answer{}, err
	}
	if !o.Whole {
		if err := conn.closeWrite(); err != nil {
			return Answer{}, err
		}
	}
	back, err := io.ReadAll(conn)
	if err != nil {
		return Answer{}, err
	}
	hash := sha256.Sum256(there)
	if !bytes.Equal(back, append(hash[:], noise(2, o.Size)...)) {
		return Answer{}, fmt.Errorf("of %d bytes each way not all arrived as they were (%d came back)", o.Size, len(back))
	}
	return Answer{Bytes: uint64(2 * o.Size)}, nil
}
