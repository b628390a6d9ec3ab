// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// hostile is an HBONE client that is not bound to any manners.
type hostile struct {
	conn *tls.Conn

	mu      sync.Mutex
	changed chan struct{} // holds one: a window grew, or an answer came
	next    uint32        // stream
	first   int           // window of a new stream
	window  int           // of the tunnel
	streams map[uint32]int
	answers int
	err     error
}

const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameWindowUpdate = 8

	mostData = 16 << 10
)

func openHostile(o Order, cfg *tls.Config) (*hostile, error) {
	conn, err := openTunnel(o, cfg)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	h := &hostile{conn: conn, changed: make(chan struct{}, 1), next: 1, first: 65535, window: 65535, streams: make(map[uint32]int)}
	if _, err := conn.Write([]byte(greeting)); err != nil {
		conn.Close()
		return nil, err
	}
	go h.read()
	return h, nil
}

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	f := make([]byte, 9, 9+len(payload))
	f[0], f[1], f[2] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload))
	f[3], f[4] = kind, flags
	binary.BigEndian.PutUint32(f[5:], stream)
	return append(f, payload...)
}

// connectTo is a CONNECT's header block: two literals with names of HPACK's
// static table.
func connectTo(target netip.AddrPort) []byte {
	authority := target.String()
	return append(append([]byte("\x02\x07CONNECT\x01"), byte(len(authority))), authority...)
}

// read takes what the peer says, until it ends.
func (h *hostile) read() {
	in := bufio.NewReader(h.conn)
	var head [9]byte
	for {
		_, err := io.ReadFull(in, head[:])
		var payload []byte
		if err == nil {
			payload = make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			_, err = io.ReadFull(in, payload)
		}
		h.mu.Lock()
		if err != nil {
			h.err = err
		} else {
			h.got(head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload)
		}
		h.mu.Unlock()
		select {
		case h.changed <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// got is one frame; mu is held.
func (h *hostile) got(kind, flags byte, stream uint32, payload []byte) {
	switch kind {
	case frameHeaders:
		h.answers++
	case frameReset:
		if binary.BigEndian.Uint32(payload) != 0 { // without error, it follows the answer
			h.answers++
		}
	case framePing:
		if flags&1 == 0 {
			go h.conn.Write(frame(framePing, 1, 0, payload))
		}
	case frameWindowUpdate:
		n := int(binary.BigEndian.Uint32(payload))
		if stream == 0 {
			h.window += n
		} else {
			h.streams[stream] += n
		}
	case frameSettings:
		for ; len(payload) >= 6; payload = payload[6:] {
			if binary.BigEndian.Uint16(payload) == 4 {
				change := int(binary.BigEndian.Uint32(payload[2:])) - h.first
				h.first += change
				for s := range h.streams {
					h.streams[s] += change
				}
			}
		}
	}
}

// open begins a stream.
func (h *hostile) open(target netip.AddrPort, then ...byte) (uint32, error) {
	h.mu.Lock()
	id := h.next
	h.next += 2
	h.streams[id] = h.first
	h.mu.Unlock()
	text := frame(frameHeaders, 4, id, connectTo(target))
	if len(then) > 0 {
		text = append(text, frame(frameReset, 0, id, then)...)
	}
	return id, h.write(text)
}

// write writes, unless the peer takes nothing off the wire.
func (h *hostile) write(text []byte) error {
	_ = h.conn.SetWriteDeadline(time.Now().Add(3 * stalled))
	_, err := h.conn.Write(text)
	return err
}

// await waits for a change; false if there was none for a while, or no more will be.
func (h *hostile) await(patience time.Duration) bool {
	select {
	case <-h.changed:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.err == nil
	case <-time.After(patience):
		return false
	}
}

// fill sends in every stream until no window is left.
func (h *hostile) fill() error {
	chunk := make([]byte, mostData)
	for {
		h.mu.Lock()
		var id uint32
		n := 0
		for s, left := range h.streams {
			if n = min(left, h.window, mostData); n > 0 {
				id = s
				break
			}
		}
		if n > 0 {
			h.streams[id] -= n
			h.window -= n
		}
		h.mu.Unlock()
		if n <= 0 {
			if !h.await(stalled) {
				return nil
			}
			continue
		}
		if err := h.write(frame(frameData, 0, id, chunk[:n])); err != nil {
			return err
		}
	}
}

// unreadStreams are in each tunnel.
const unreadStreams = 32

// crowd opens streams to an app that reads nothing, and fills them.
func (h *hostile) crowd(target netip.AddrPort) error {
	for range unreadStreams {
		id, err := h.open(target)
		if err == nil {
			err = h.write(frame(frameData, 0, id, header(hold, 0)))
		}
		if err != nil {
			return err
		}
		h.mu.Lock()
		h.streams[id] -= headerSize
		h.window -= headerSize
		h.mu.Unlock()
	}
	return h.fill()
}

// unread fills tunnels with bytes for an app that reads none, as far as the peer
// lets it.
func (w *worker) unread(o Order) (Answer, error) {
	cfg, err := o.Tunnel.dialer()
	if err != nil {
		return Answer{}, err
	}
	var group errgroup.Group
	group.SetLimit(8)
	for range o.Streams {
		h, err := openHostile(o, cfg)
		if err != nil {
			return Answer{Count: len(w.tunnels)}, err
		}
		w.tunnels = append(w.tunnels, h.conn)
		group.Go(func() error {
			err := h.crowd(o.Target)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil // full, in another way
			}
			return err
		})
	}
	return Answer{Count: o.Streams}, group.Wait()
}

// atOnce is how many streams of a tunnel are without an answer at a time.
const atOnce = 50

// hurl opens streams that come to nothing, and counts them. A tunnel that is
// ended for it is followed by another.
func hurl(o Order) (Answer, error) {
	cfg, err := o.Tunnel.dialer()
	if err != nil {
		return Answer{}, err
	}
	var done atomic.Int64
	var group errgroup.Group
	p := pace{o: o, start: time.Now()}
	for range o.Streams {
		group.Go(func() error {
			for time.Since(p.start) < o.Duration {
				h, err := openHostile(o, cfg)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				h.hurl(&p, &done)
				h.conn.NetConn().Close()
			}
			return nil
		})
	}
	err = group.Wait()
	return Answer{Count: int(done.Load()), Elapsed: time.Since(p.start)}, err
}

func (h *hostile) hurl(p *pace, done *atomic.Int64) {
	o := p.o
	for opened := 0; p.next(); opened++ {
		var err error
		if o.Kind == Dropped {
			_, err = h.open(o.Target, 0, 0, 0, 8) // CANCEL
		} else {
			_, err = h.open(o.Target)
		}
		if err != nil {
			return
		}
		done.Add(1)
		for o.Kind == Refused {
			h.mu.Lock()
			waiting, err := opened-h.answers, h.err
			h.mu.Unlock()
			if err != nil {
				return
			}
			if waiting < atOnce || !h.await(time.Second) {
				break
			}
		}
	}
}
