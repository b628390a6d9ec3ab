// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sniffer reads all that passes between the nodes, and looks for a word in it.
type sniffer struct {
	t    *testing.T
	word []byte
	raw  *os.File

	mu   sync.Mutex
	seen sight // guarded by mu
}

// sight is what a sniffer saw, by IP version: 4 or 6.
type sight struct {
	clear  map[int]int // packets with the word in clear
	tunnel map[int]int // packets with bytes of a tunnel
	last   time.Time   // when the word was last seen
	lost   int         // packets that were not read
}

// sniff looks for word on the link between the nodes until the test ends. The word must be
// short, and said in one write, so that no packet ends within it.
func (r *running) sniff(word string) *sniffer {
	r.t.Helper()
	fd, err := packetSocket(supervisor(r.t, r.name))
	if err != nil {
		r.t.Fatal(err)
	}
	s := &sniffer{t: r.t, word: []byte(word), raw: os.NewFile(uintptr(fd), "packets")}
	s.look()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.read()
	}()
	r.t.Cleanup(func() {
		s.raw.Close()
		<-ended
	})
	return s
}

// packetSocket opens one in the netns of a process: the bridge of the nodes is there, and
// a socket stays where it was made.
func packetSocket(pid int) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread is thrown away with its netns
		var there netns.NsHandle
		if there, err = netns.GetFromPid(pid); err != nil {
			return
		}
		defer there.Close()
		if err = netns.Set(there); err != nil {
			return
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		err = errors.Join( // the buffer: this process waits for a processor at times
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}))
	}()
	<-done
	return fd, err
}

// read takes each packet once, where it enters the bridge. What etcd hears over the
// loopback, as the arguments of the clients, is not between the nodes.
func (s *sniffer) read() {
	buffer := make([]byte, 256<<10)
	raw, err := s.raw.SyscallConn()
	if err != nil {
		s.t.Error(err)
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, from, err := unix.Recvfrom(int(fd), buffer, 0)
			if errors.Is(err, unix.EAGAIN) {
				return false
			} else if err != nil {
				s.t.Errorf("read packets: %v", err)
				return true
			}
			link, ok := from.(*unix.SockaddrLinklayer)
			if ok && link.Pkttype != unix.PACKET_OUTGOING && link.Hatype != unix.ARPHRD_LOOPBACK {
				s.note(buffer[:n])
			}
		}
	})
}

const tunnelPort = 15008

func (s *sniffer) note(packet []byte) {
	version, ports := 4, 20
	switch {
	case len(packet) > 40 && packet[0]>>4 == 4:
		ports = int(packet[0]&0xf) * 4
	case len(packet) > 40 && packet[0]>>4 == 6:
		version, ports = 6, 40
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Contains(packet, s.word) {
		s.seen.clear[version]++
		s.seen.last = time.Now()
	}
	if ports+4 <= len(packet) && (binary.BigEndian.Uint16(packet[ports:]) == tunnelPort || binary.BigEndian.Uint16(packet[ports+2:]) == tunnelPort) {
		s.seen.tunnel[version]++
	}
}

// look returns what was seen since it was last called.
func (s *sniffer) look() sight {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = sight{clear: make(map[int]int), tunnel: make(map[int]int)}
	raw, err := s.raw.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { // reading the statistics resets them
		statistics, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			s.t.Error(err)
			return
		}
		seen.lost = int(statistics.Drops)
	})
	return seen
}

func (s sight) String() string {
	return fmt.Sprintf("in clear %d in IPv4 and %d in IPv6, of tunnels %d and %d", s.clear[4], s.clear[6], s.tunnel[4], s.tunnel[6])
}

// The sniffer must see what is there to be seen, or seeing nothing would prove nothing.
func TestTheSnifferSeesWhatPodsSayToTheOtherNode(t *testing.T) {
	shop := useShared(t).openShop("shop-sniffer")
	said := shop.sniff(shop.word)
	other := shop.sniff("word-that-nobody-says")
	eventually(t, func() error {
		if seen := said.look(); seen.clear[4] == 0 || seen.clear[6] == 0 || seen.lost != 0 {
			return fmt.Errorf("saw the word %v; %d packets were lost", seen, seen.lost)
		}
		return nil
	})
	if seen := other.look(); len(seen.clear) != 0 || len(seen.tunnel) != 0 {
		t.Errorf("of what nobody said, saw %v", seen)
	}
}
