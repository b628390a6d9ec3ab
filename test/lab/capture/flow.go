// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Flow is one TCP connection as it was on the wire.
type Flow struct {
	Client, Server netip.AddrPort
	Opened         bool   // its SYN was seen; if not, the smaller port is taken for the server's
	Accepted       bool   // its SYN-ACK was seen
	Reset          bool   // an RST was seen
	Packets        int    // both ways
	Up, Down       []byte // payload, client to server and back
}

func (f Flow) String() string {
	return fmt.Sprintf("%v -> %v (%d packets, %d+%d bytes)", f.Client, f.Server, f.Packets, len(f.Up), len(f.Down))
}

// pair names a connection; the smaller end first.
type pair struct{ a, b netip.AddrPort }

// building is a flow whose packets are still being put in order.
type building struct {
	Flow
	isn      uint32
	up, down stream
}

// stream is one direction: payload by its distance from the first byte seen.
type stream struct {
	base  uint32
	known bool
	data  []byte
}

func flows(packets []packet) []Flow {
	var all []*building
	live := make(map[pair]*building)
	for _, p := range packets {
		if p.proto != unix.IPPROTO_TCP {
			continue
		}
		key := pair{p.src, p.dst}
		if p.dst.Compare(p.src) < 0 {
			key = pair{p.dst, p.src}
		}
		f := live[key]
		if f == nil || p.opens() && p.seq != f.isn {
			f = begin(p)
			live[key] = f
			all = append(all, f)
		}
		f.add(p)
	}
	done := make([]Flow, len(all))
	for i, f := range all {
		f.Up, f.Down = f.up.data, f.down.data
		done[i] = f.Flow
	}
	return done
}

func (p packet) opens() bool { return p.flags&(syn|ack) == syn }

func begin(p packet) *building {
	f := &building{Flow: Flow{Client: p.src, Server: p.dst}, isn: p.seq}
	answered := p.flags&(syn|ack) == syn|ack
	if !p.opens() && (answered || p.src.Port() < p.dst.Port()) {
		f.Client, f.Server = p.dst, p.src
	}
	return f
}

func (f *building) add(p packet) {
	f.Packets++
	f.Reset = f.Reset || p.flags&rst != 0
	dir := &f.down
	if p.src == f.Client {
		dir = &f.up
		f.Opened = f.Opened || p.opens()
	} else {
		f.Accepted = f.Accepted || p.flags&(syn|ack) == syn|ack
	}
	seq := p.seq
	if p.flags&syn != 0 {
		seq++ // the SYN has the number before the first byte's
	}
	dir.add(seq, p.payload)
}

func (s *stream) add(seq uint32, payload []byte) {
	if !s.known {
		s.base, s.known = seq, true
	}
	offset := int(int32(seq - s.base))
	if offset < 0 || len(payload) == 0 || offset > len(s.data)+(1<<24) {
		return // before what was seen first, or nonsense
	}
	if end := offset + len(payload); end > len(s.data) {
		s.data = slices.Grow(s.data, end-len(s.data))[:end]
	}
	copy(s.data[offset:], payload)
}
