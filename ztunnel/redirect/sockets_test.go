// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's answer and that of /proc are the same, for each kind of socket.
func TestWhoeverCanSendToAStandInIsFound(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	wantHeld := func(when string, want bool) {
		t.Helper()
		w.in(p.ns, func() error {
			asked, err := w.d.holdsStandIns()
			if err != nil || asked != want {
				t.Errorf("%s: the kernel says %v, %v", when, asked, err)
			}
			read, err := w.d.readStandIns()
			if err != nil || read != want {
				t.Errorf("%s: /proc says %v, %v", when, read, err)
			}
			return nil
		})
	}
	wantHeld("with listeners alone", false)
	for name, tc := range map[string]struct {
		six bool
		c   client
	}{
		"IPv4":                     {false, plainClient(nil)},
		"IPv6":                     {true, plainClient(nil)},
		"IPv4 by a socket of IPv6": {false, mapped},
	} {
		fd, conn, err := p.carried(tc.c, tc.six, servers(1, tc.six)[0])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantHeld(name+", open", true)
		conn.Close()
		wantHeld(name+", closed by ztunnel", true)
		if err := connectUnspec(fd); err != nil {
			t.Fatal(err)
		}
		wantHeld(name+", disconnected", false)
	}
}

// mapped connects with a socket of IPv6 to an IPv4 address.
func mapped(_ int, to unix.Sockaddr) (int, error) {
	four := to.(*unix.SockaddrInet4)
	six := &unix.SockaddrInet6{Port: four.Port}
	six.Addr[10], six.Addr[11] = 0xff, 0xff
	copy(six.Addr[12:], four.Addr[:])
	return plainClient(nil)(unix.AF_INET6, six)
}
