// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// holdsNothing reports whether c is as small as it gets.
func holdsNothing(c *Conn) bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.in.aead == nil && c.out.aead == nil && c.buf == nil && c.segments == nil
}

// rest lets c rest, and returns when it does.
func rest(c *Conn) (rested chan error) {
	rested = make(chan error, 1)
	go func() { rested <- c.Rest() }()
	for !c.resting.Load() || !holdsNothing(c) {
		runtime.Gosched()
	}
	return rested
}

func TestAConnThatRestsHoldsNeitherKeysNorBuffers(t *testing.T) {
	a, b := pair(t)
	for _, text := range []string{"one", "two"} {
		rested := rest(b)
		if _, err := b.Write([]byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		if !holdsNothing(b) {
			t.Error("it keeps the key that it sealed with")
		}
		if _, err := a.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := <-rested; err != nil {
			t.Fatal(err)
		}
		for conn, want := range map[*Conn]string{a: "meanwhile", b: text} {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Fatalf("%q, %v, want %q", got, err, want)
			}
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
		if err := b.Rest(); err != nil {
			t.Fatal(err)
		}
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
	if err := b.Rest(); err != nil { // data that Read did not copy yet
		t.Fatal(err)
	}
	rest := make([]byte, 4)
	if _, err := io.ReadFull(b, rest); err != nil || string(rest) != "hole" {
		t.Fatalf("%q, %v", rest, err)
	}
	if err := b.Rest(); err != nil { // a record in part
		t.Fatal(err)
	}
	f.send(next[7:])
	if got, err := b.Receive(); err != nil || string(got[0]) != "next" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestRestEndsWithADeadlineAndWithClose(t *testing.T) {
	_, b := pair(t)
	b.SetReadDeadline(time.Now().Add(-time.Second))
	if err := b.Rest(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	b.SetReadDeadline(time.Time{})
	rested := rest(b)
	b.Close()
	<-rested
	if err := errors.Join(b.in.wake(), b.out.wake()); err == nil {
		t.Error("there is a key after Close")
	}
	if _, err := b.Receive(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestRestEndsWithThePeer(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if err := b.Rest(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("%v", err)
	}
}
