// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// holdsNothing reports whether c is as small as it gets.
func holdsNothing(c *Conn) bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.in.aead == nil && c.out.aead == nil && c.buf == nil && c.segments == nil
}

// rest lets c rest, and returns what is closed when it is to receive again.
func rest(t *testing.T, c *Conn) (up chan struct{}, ticket socket.Ticket) {
	t.Helper()
	up = make(chan struct{})
	if ticket = c.Rest(func() { close(up) }); ticket == 0 {
		t.Fatal("it does not rest")
	}
	if !holdsNothing(c) {
		t.Error("it holds keys or buffers")
	}
	return up, ticket
}

func TestAConnThatRestsHoldsNeitherKeysNorBuffers(t *testing.T) {
	a, b := pair(t)
	for _, text := range []string{"one", "two"} {
		up, _ := rest(t, b)
		if _, err := b.Write([]byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		if !holdsNothing(b) {
			t.Error("it keeps the key that it sealed with")
		}
		if _, err := a.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		<-up
		for conn, want := range map[*Conn]string{a: "meanwhile", b: text} {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Fatalf("%q, %v, want %q", got, err, want)
			}
		}
	}
}

func TestArrivedIsWhatHasComeWithoutAWait(t *testing.T) {
	near, far := sockets(t)
	c, f := forgeOn(t, true, near, far)
	want := func(want string) {
		t.Helper()
		if got := string(bytes.Join(c.Arrived(), nil)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	want("")
	whole, torn := f.data("whole"), f.data("torn")
	f.send(whole, torn[:len(torn)-1])
	waitFor(t, c, len(whole)+len(torn)-1)
	want("whole")
	want("")
	f.send(torn[len(torn)-1:])
	if got, err := c.Receive(); err != nil || string(bytes.Join(got, nil)) != "torn" {
		t.Errorf("%q, %v", got, err)
	}
	far.CloseWrite()
	want("")
	if _, err := c.Receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("an end: %v", err)
	}
}

// waitFor returns when so many bytes have come that nobody has read.
func waitFor(t *testing.T, c *Conn, n int) {
	t.Helper()
	for came, end := 0, time.Now().Add(30*time.Second); came < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d bytes came in 30 s", came, n)
		}
		if err := c.raw.Control(func(fd uintptr) { came, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeysThatWereUpdatedRestToo(t *testing.T) {
	a, b := pair(t)
	a.owed.Store(true) // its next write updates the key
	for range 3 {
		if _, err := a.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		up, _ := rest(t, b)
		<-up
		if n, err := b.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
}

func TestNobodyRestsOverWhatHasCome(t *testing.T) {
	b, f := forge(t, false)
	whole := f.data("whole")
	next := f.data("next")
	f.send(append(whole, next[:7]...))
	one := make([]byte, 1)
	if _, err := b.Read(one); err != nil || one[0] != 'w' {
		t.Fatalf("%q, %v", one, err)
	}
	if b.Rest(nil) != 0 {
		t.Error("over data that Read did not copy yet")
	}
	rest := make([]byte, 4)
	if _, err := io.ReadFull(b, rest); err != nil || string(rest) != "hole" {
		t.Fatalf("%q, %v", rest, err)
	}
	if b.Rest(nil) != 0 {
		t.Error("over a record in part")
	}
	f.send(next[7:])
	if got, err := b.Receive(); err != nil || string(got[0]) != "next" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestWhatEndsWhileItRestsIsToldByReceive(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(near, far *Conn, rest socket.Ticket)
		want error
	}{
		"the peer": {func(near, far *Conn, rest socket.Ticket) { far.Close() }, io.ErrUnexpectedEOF},
		"Close": {func(near, far *Conn, rest socket.Ticket) {
			near.Close()
			socket.Wake(rest)
		}, net.ErrClosed},
		"a deadline": {func(near, far *Conn, rest socket.Ticket) {
			near.SetReadDeadline(time.Unix(1, 0))
			socket.Wake(rest)
		}, os.ErrDeadlineExceeded},
	} {
		far, near := pair(t)
		up, ticket := rest(t, near)
		test.end(near, far, ticket)
		<-up
		if _, err := near.Receive(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestAClosedConnHasNoKeysToRemake(t *testing.T) {
	_, c := pair(t)
	c.Close()
	if c.in.wake() == nil || c.out.wake() == nil {
		t.Error("there is a key after Close")
	}
	if c.Rest(nil) != 0 {
		t.Error("it rests")
	}
}
