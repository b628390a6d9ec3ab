// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// sendUrgent sends data, whose last byte is urgent.
func sendUrgent(t *testing.T, conn *net.TCPConn, data []byte) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := 0
		if werr := raw.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), data, nil, nil, unix.MSG_OOB)
			return err != unix.EAGAIN
		}); werr != nil || err != nil {
			t.Fatal(werr, err)
		}
		data = data[n:]
	}
}

// keepsUrgent sets what netns sets on every socket of a pod.
func keepsUrgent(t *testing.T, conns ...*net.TCPConn) {
	t.Helper()
	for _, conn := range conns {
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// splice(2) stops at an urgent byte, and reports an empty socket or the end of
// data. Neither may stop the relay or end it early.
func TestRelayCarriesUrgentBytesInOrderAmongBulk(t *testing.T) {
	const bulk = 1 << 20
	for _, at := range []struct {
		name string
		size []int // of each part, whose last byte is urgent
	}{
		{"one byte", []int{1}},
		{"first", []int{1, bulk}},
		{"last", []int{bulk}},
		{"around 64 KiB", []int{64<<10 - 1, 64 << 10, 64<<10 + 1, 1, 1, bulk}},
		{"one after the other in bulk", []int{bulk, 1, 1, bulk, 2, bulk}},
	} {
		for _, end := range []string{"and more to come", "and then the end"} {
			t.Run(at.name+" "+end, func(t *testing.T) {
				r := startRelay(t)
				keepsUrgent(t, r.legs[0], r.legs[1])
				for _, ends := range [][2]*net.TCPConn{{r.client, r.server}, {r.server, r.client}} {
					from, to := ends[0], ends[1]
					var want []byte
					for i, size := range at.size {
						want = append(want, bytes.Repeat([]byte{byte('a' + i)}, size)...)
					}
					go func() {
						rest := want
						for _, size := range at.size {
							sendUrgent(t, from, rest[:size])
							rest = rest[size:]
						}
						if end == "and then the end" {
							from.CloseWrite()
						}
					}()
					got := make([]byte, len(want))
					if n, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("got %d of %d bytes, equal: %v, %v", n, len(want), bytes.Equal(got[:n], want[:n]), err)
					}
					if end == "and then the end" {
						expectEOF(t, to)
					}
				}
			})
		}
	}
}
