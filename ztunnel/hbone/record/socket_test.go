// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

func TestAConnThatWaitsHoldsNoBuffer(t *testing.T) {
	c, f := forge(t, true)
	f.send(f.data("something"))
	if _, err := c.Receive(); err != nil {
		t.Fatal(err)
	}
	wait := func() {
		t.Helper()
		if err := c.raw.Control(func(fd uintptr) {
			if c.readSome(fd) {
				t.Error("there was something to read")
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	wait() // as RawConn.Read does before it parks
	if c.buf != nil || c.segments != nil {
		t.Error("a buffer is held")
	}

	// Of a record in part it holds what came, not room for what may come.
	rec := f.data(string(make([]byte, 10000)))
	f.send(rec[:100])
	for end := time.Now().Add(patience); c.w < 100 && time.Now().Before(end); {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // may have passed before the read
		if _, err := c.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if c.buf == nil || len(c.buf.Bytes) != bufferSizes[0] || c.w != 100 {
		t.Errorf("100 bytes are held in %+v", c.buf)
	}
	c.SetReadDeadline(time.Time{})
	f.send(rec[100:])
	if got, err := c.Receive(); err != nil || len(got) != 1 || len(got[0]) != 10000 {
		t.Errorf("after the deadline: %d segments, %v", len(got), err)
	}
}

// full is a socket in which there is always more to read, until all was read.
type full struct {
	net.Conn
	all bytes.Buffer
}

func (f *full) Read(p []byte) (int, error) { return f.all.Read(p) }

func TestReadsGrowWithWhatComes(t *testing.T) {
	_, far := sockets(t)
	near := &full{}
	c, f := forgeOn(t, true, near, far)
	for range 64 {
		near.all.Write(f.data(string(make([]byte, maxPlaintext))))
	}
	var got []int // records
	for range 6 {
		segments, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(segments))
	}
	if want := []int{1, 1, 4, 4, 16, 16}; !slices.Equal(got, want) {
		t.Errorf("reads brought %d records, want %d", got, want)
	}
}

func TestASmallRecordIsNotKeptWaitingByALargeOne(t *testing.T) {
	c, f := forge(t, true)
	large := f.data("small")
	next := f.data(string(make([]byte, 5000)))
	f.send(append(large, next[:3000]...))
	if got, err := c.Receive(); err != nil || len(got) != 1 || string(got[0]) != "small" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOneReceiveOpensABoundedNumberOfRecords(t *testing.T) {
	c, f := forge(t, true)
	const n = 3*maxSegments + 5
	var all []byte
	for range n {
		all = append(all, f.data("x")...)
	}
	f.send(all)
	for total := 0; total < n; {
		segments, err := c.Receive()
		if err != nil || len(segments) > maxSegments {
			t.Fatalf("%d segments, %v", len(segments), err)
		}
		total += len(segments)
	}
}

func TestCloseWakesWhoReadsAndWhoWrites(t *testing.T) {
	client, _ := pair(t)
	var running sync.WaitGroup
	running.Go(func() {
		if _, err := client.Receive(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive: %v", err)
		}
	})
	wrote := make(chan struct{})
	running.Go(func() {
		p := make([]byte, 1<<20)
		for n := 0; ; n++ {
			if _, err := client.Write(p); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Write: %v", err)
				}
				return
			}
			if n == 0 {
				close(wrote)
			}
		}
	})
	<-wrote
	client.Close()
	running.Wait()
}

// TestEverythingAtOnce is for the race detector.
func TestEverythingAtOnce(t *testing.T) {
	for range 20 {
		client, server := pair(t)
		for _, c := range []*Conn{client, server} {
			c.keyLimit, c.updateRate = 100, rate.Limit{Burst: 1 << 20}
		}
		var running sync.WaitGroup
		for _, c := range []*Conn{client, server} {
			running.Go(func() { io.Copy(io.Discard, struct{ io.Reader }{c}) })
			for range 2 {
				running.Go(func() {
					p := make([]byte, 40000)
					for range 40 {
						if _, err := c.Write(p); err != nil {
							return
						}
					}
					c.CloseWrite()
				})
			}
			running.Go(func() {
				for i := range 20 {
					c.SetReadDeadline(time.Now().Add(time.Duration(i) * time.Second))
					c.SetWriteDeadline(time.Now().Add(patience))
				}
			})
		}
		running.Go(func() { server.Close() })
		running.Wait()
		client.Close()
	}
}

func TestAMissedWriteDeadlineIsFinal(t *testing.T) {
	client, _ := pair(t)
	client.SetWriteDeadline(time.Now().Add(time.Second)) // long enough to begin a record
	var err error
	for err == nil {
		_, err = client.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
	client.SetWriteDeadline(time.Time{})
	if _, again := client.Write([]byte("x")); again == nil {
		t.Error("Write goes on in the midst of a record")
	}
	if client.out.aead != nil {
		t.Error("the key survives")
	}
}

// TestAFaultIsFoundAlthoughAWriterIsBlocked: the reader must not wait for it.
func TestAFaultIsFoundAlthoughAWriterIsBlocked(t *testing.T) {
	c, f := forge(t, true)
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	bad := f.data("x")
	bad[headerSize] ^= 1
	f.send(bad)
	expectEnd(t, c, "", alertBadRecordMAC, false)
	// Once the writer gets on, its last words are the alert.
	expectAlertBehindData(t, f.in, alertBadRecordMAC)
	writing.Wait()
}

func expectAlertBehindData(t *testing.T, c *Conn, want tls.AlertError) {
	t.Helper()
	for {
		_, err := c.Receive()
		if err == nil {
			continue
		}
		var fault *Error
		if !errors.As(err, &fault) || fault.Alert != want || !fault.Remote {
			t.Errorf("ended with %v", err)
		}
		return
	}
}
