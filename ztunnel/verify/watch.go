// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

const (
	tunnelPort = 15008
	maxPacket  = 1 << 16
	queue      = 4 << 20 // bytes of packets that wait to be looked at
)

// Seen is what a watch saw on the devices of one netns.
type Seen struct {
	Devices []Device `json:"devices"`           // on which packets passed between both ends, or with the mark; by name
	Watched int      `json:"watched"`           // devices of the netns
	Dropped int      `json:"dropped"`           // packets that nobody looked at: they came too fast
	Control bool     `json:"control"`           // it saw the plaintext that it sent itself
	Problem string   `json:"problem,omitempty"` // why it did not see all
}

// Device is what passed on one.
type Device struct {
	Name         string  `json:"name"`
	Loopback     bool    `json:"loopback,omitempty"`
	Packets      int     `json:"packets"`                // between both ends; each counts where it enters and where it leaves
	Tunnel       int     `json:"tunnel"`                 // of them from or to port 15008
	Encapsulated int     `json:"encapsulated,omitempty"` // of them within others of the pod network
	Marked       int     `json:"marked"`                 // packets with the mark in plaintext, whatever their addresses
	First        *Packet `json:"first,omitempty"`        // of those with the mark
}

// Packet is one with the mark.
type Packet struct {
	Time  time.Time      `json:"time"`
	From  netip.AddrPort `json:"from"`
	To    netip.AddrPort `json:"to"`
	Bytes int            `json:"bytes"`
}

// watch reads packets of all devices of one netns, and keeps counts.
type watch struct {
	pair    Pair
	mark    []byte
	control []byte
	file    *os.File
	raw     syscall.RawConn
	ended   chan struct{}
	marked  chan struct{} // closed when the mark was seen

	mu      sync.Mutex // guards what follows
	buf     []byte
	seen    Seen
	names   map[int]net.Interface
	devices map[int]*Device
	first   sync.Once // closes marked
}

// watchIn begins to watch. It sends the control, a datagram of plaintext on the loopback
// device of the netns: whoever does not see it sees nothing.
func watchIn(ns *netns.NS, pair Pair, mark []byte) (w *watch, err error) {
	w = &watch{
		pair: pair, mark: mark, control: make([]byte, 16), ended: make(chan struct{}), marked: make(chan struct{}),
		buf: make([]byte, maxPacket), names: map[int]net.Interface{}, devices: map[int]*Device{},
	}
	_, _ = rand.Read(w.control) // it never fails
	err = ns.Do(func() error {
		if err := w.open(); err != nil {
			return err
		}
		w.seen.Problem = w.sendControl()
		return nil
	})
	if err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// open opens the socket in the thread's netns: before it is bound it has the filter.
func (w *watch) open() error {
	devices, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, d := range devices {
		w.names[d.Index] = d
	}
	w.seen.Watched = len(devices)
	fd, err := packetSocket()
	if err != nil {
		return err
	}
	w.file = os.NewFile(uintptr(fd), "watch")
	if err := w.bind(fd); err != nil {
		w.file.Close()
		return err
	}
	w.raw, err = w.file.SyscallConn()
	return err
}

func (w *watch) bind(fd int) error {
	program := w.pair.filter(binary.BigEndian.Uint32(w.control), binary.BigEndian.Uint32(w.mark))
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
		return os.NewSyscallError("setsockopt(SO_ATTACH_FILTER)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue); err != nil {
		return os.NewSyscallError("setsockopt(SO_RCVBUFFORCE)", err)
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff // in network order
	return os.NewSyscallError("bind(AF_PACKET)", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}))
}

// sendControl is called in the netns. Nobody listens at the port, which is discard's.
func (w *watch) sendControl() (problem string) {
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	if err == nil {
		_, err = conn.Write(w.control)
		conn.Close()
	}
	if err != nil {
		return fmt.Sprintf("send the control: %v", err)
	}
	return ""
}

func (w *watch) run() {
	defer close(w.ended)
	_ = w.raw.Read(func(fd uintptr) bool { // it ends when the file is closed
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.drain(int(fd))
	})
}

// drain looks at what the kernel has queued, and reports whether the socket is of no use any
// more. w.mu is held.
func (w *watch) drain(fd int) (over bool) {
	for {
		n, from, err := unix.Recvfrom(fd, w.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // a device went down
			continue
		case err != nil:
			w.seen.Problem = fmt.Sprintf("read packets: %v", err)
			return true
		case n > len(w.buf):
			w.seen.Problem = fmt.Sprintf("a packet of %d bytes is longer than can be looked at", n)
			n = len(w.buf)
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok {
			w.look(w.buf[:n], at)
		}
	}
}

// look counts one packet. w.mu is held.
func (w *watch) look(data []byte, at *unix.SockaddrLinklayer) {
	device, known := w.names[at.Ifindex]
	loopback := device.Flags&net.FlagLoopback != 0
	if loopback && at.Pkttype == unix.PACKET_OUTGOING {
		return // it comes again
	}
	if isControl(data, w.control) {
		w.seen.Control = true
		return
	}
	s, between := w.pair.find(data)
	marked := bytes.Contains(data, w.mark)
	switch {
	case !between && !marked:
		return
	case !between:
		s = w.pair.other(data)
	}
	d := w.devices[at.Ifindex]
	if d == nil {
		if !known {
			device.Name = fmt.Sprintf("device %d", at.Ifindex) // it came later
		}
		d = &Device{Name: device.Name, Loopback: loopback}
		w.devices[at.Ifindex] = d
	}
	if between {
		d.Packets++
	}
	if s.encapsulated {
		d.Encapsulated++
	}
	if between && (s.from.Port() == tunnelPort || s.to.Port() == tunnelPort) {
		d.Tunnel++
	}
	if !marked {
		return
	}
	if d.Marked++; d.First == nil {
		d.First = &Packet{Time: time.Now().UTC(), From: s.from, To: s.to, Bytes: len(data)}
	}
	w.first.Do(func() { close(w.marked) })
}

// shut lets no more packets in, so that those that wait are few however fast others come.
func (w *watch) shut() (err error) {
	none := []unix.SockFilter{{Code: ret}}
	if broken := w.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(none)), Filter: &none[0]})
	}); broken != nil {
		return broken
	}
	return os.NewSyscallError("setsockopt(SO_ATTACH_FILTER)", err)
}

// end looks at all packets that passed until now, and ends the watch.
func (w *watch) end() Seen {
	shut := w.shut()
	w.mu.Lock()
	if shut != nil {
		w.seen.Problem = shut.Error()
	}
	_ = w.raw.Control(func(fd uintptr) {
		w.drain(int(fd))
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			w.seen.Dropped = int(st.Drops)
		} else {
			w.seen.Problem = fmt.Sprintf("how many packets were dropped is not known: %v", err)
		}
	})
	w.mu.Unlock()
	w.file.Close()
	<-w.ended
	for _, d := range slices.SortedFunc(maps.Values(w.devices), func(a, b *Device) int { return cmp.Compare(a.Name, b.Name) }) {
		w.seen.Devices = append(w.seen.Devices, *d)
	}
	return w.seen
}
