// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// meteredSocket is a socket that blocks, and counts what it is asked.
type meteredSocket struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *meteredSocket) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *meteredSocket) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// stdPair are the two ends of a tunnel whose records are crypto/tls's; wrap is for the
// sockets.
func stdPair(t *testing.T, wrap func(net.Conn) net.Conn) (client, server *tlsWire) {
	t.Helper()
	ca := newAuthority(t)
	ln := listenTCP(t)
	near, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	var shaking sync.WaitGroup
	shake := func(into **tlsWire, conn net.Conn, isClient bool) {
		id, want := serverID, clientID
		if isClient {
			id, want = want, id
		}
		w, _, err := std(t.Context(), wrap(conn), isClient, ca.credential(id, want, time.Hour).Config)
		if err != nil {
			t.Error(err)
			return
		}
		*into = w.(*tlsWire)
	}
	shaking.Go(func() { shake(&client, near, true) })
	shaking.Go(func() { shake(&server, far, false) })
	shaking.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return client, server
}

// batchOf is n bytes that tell their place, in a batch.
func batchOf(t *testing.T, n int) *record.Batch {
	t.Helper()
	b := record.TakeBatch(n)
	t.Cleanup(b.Release)
	for i := range n {
		if b.Append([]byte{byte(i % 251)}) != 1 {
			t.Fatalf("a batch has no room for byte %d", i)
		}
	}
	return b
}

// take receives n bytes.
func take(w *tlsWire, n int) (got []byte, err error) {
	for len(got) < n {
		some, err := w.Receive()
		if err != nil {
			return got, err
		}
		for _, p := range some {
			got = append(got, p...)
		}
	}
	return got, nil
}

// crypto/tls writes a record at a time. Sixteen leave at once, and are read at once when
// they lie there.
func TestManyRecordsOfCryptoTLSGoByOneSyscall(t *testing.T) {
	client, server := stdPair(t, func(c net.Conn) net.Conn { return &meteredSocket{Conn: c} })
	out, in := client.socket.Conn.(*meteredSocket), server.socket.Conn.(*meteredSocket)
	writes, reads := out.writes.Load(), in.reads.Load()
	b := batchOf(t, record.BatchSize)
	var sent sync.WaitGroup
	const rounds = 8 // the first are read into smaller buffers
	sent.Go(func() {
		for range rounds {
			if err := client.WriteBatch(b); err != nil {
				t.Error(err)
			}
		}
	})
	got, err := take(server, rounds*record.BatchSize)
	sent.Wait()
	if err != nil || len(got) != rounds*record.BatchSize {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for i, c := range got {
		if c != byte(i%record.BatchSize%251) {
			t.Fatalf("byte %d is %d", i, c)
		}
	}
	if n := out.writes.Load() - writes; n != rounds {
		t.Errorf("%d writes for %d batches", n, rounds)
	}
	if n := in.reads.Load() - reads; n > rounds*record.MaxRecords {
		t.Errorf("%d reads for %d records", n, rounds*record.MaxRecords)
	}
}

// A batch that the socket does not take leaves the caller at once, and waits. What
// crypto/tls says meanwhile, the answer to a KeyUpdate, waits for nobody and goes behind it.
func TestABatchOfCryptoTLSThatDoesNotFitWaits(t *testing.T) {
	client, server := stdPair(t, func(c net.Conn) net.Conn { return c })
	b := batchOf(t, record.BatchSize)
	batches := 0
	for done := true; done; batches++ {
		var err error
		if done, err = client.Begin(b); err != nil {
			t.Fatal(err)
		}
	}
	late := []byte("said by the reader")
	if _, err := client.Write(late); err != nil {
		t.Fatal(err)
	}
	var finished sync.WaitGroup
	finished.Go(func() {
		if err := client.Finish(); err != nil {
			t.Error(err)
		}
	})
	got, err := take(server, batches*record.BatchSize+len(late))
	finished.Wait()
	if err != nil || !bytes.HasSuffix(got, late) {
		t.Fatalf("%d bytes of %d batches and %d, %v", len(got), batches, len(late), err)
	}
	if client.socket.out != nil || client.Written() == 0 {
		t.Errorf("a buffer is kept, %d bytes are counted", client.Written())
	}
}

// A peer may have crypto/tls answer by KeyUpdates, and read nothing. No answer waits for the
// socket, whether a batch does or not, and there is an end of them.
func TestAPeerThatHasCryptoTLSAnswerAgainAndAgainIsLeft(t *testing.T) {
	for _, pending := range []bool{false, true} {
		client, server := stdPair(t, func(c net.Conn) net.Conn { return c })
		b := batchOf(t, record.BatchSize)
		for done := pending; done; {
			var err error
			if done, err = client.Begin(b); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		n := 0
		for ; err == nil && n < 100; n++ {
			_, err = client.Write([]byte("an answer"))
		}
		if !errors.Is(err, errLate) || n < 30 {
			t.Errorf("pending %v: after %d: %v", pending, n, err)
		}
		if err := server.WriteBatch(batchOf(t, 9)); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Receive(); !errors.Is(err, errLate) {
			t.Errorf("pending %v: the reader goes on: %v", pending, err)
		}
	}
}

// Answers that wait go before a batch. If it then has no room for all of its records, those
// behind the first that is left out are left out, too, however short.
func TestRecordsOfABatchStayInSequenceBehindAnswers(t *testing.T) {
	var s tlsSocket
	s.begun = true
	s.late = bytes.Repeat([]byte{1}, mostLate)
	s.gather(sealedSizes[len(sealedSizes)-1])
	var want []byte
	want = append(want, s.out.Bytes[:s.n]...)
	for i := range record.MaxRecords + 1 {
		size := 16<<10 + tlsOverhead
		if i == record.MaxRecords {
			size = 100 // the last of a batch is as short as what is left of it
		}
		rec := bytes.Repeat([]byte{byte(2 + i)}, size)
		want = append(want, rec...)
		if _, err := s.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	if got := append(append([]byte{}, s.out.Bytes[:s.n]...), s.late...); !bytes.Equal(got, want) || len(s.late) < 100 {
		t.Errorf("%d bytes of %d, of which %d come later, are not in sequence", len(got), len(want), len(s.late))
	}
}

// What the reader's tls.Conn says behind close_notify goes nowhere, and does not fail: it
// would read what the peer still sends by a key of before.
func TestCryptoTLSReadsOnBehindItsGoodbye(t *testing.T) {
	client, server := stdPair(t, func(c net.Conn) net.Conn { return c })
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	written := client.Written()
	if n, err := client.socket.Write([]byte("an answer")); n != 9 || err != nil || client.Written() != written || client.socket.late != nil {
		t.Errorf("%d, %v, %d bytes more", n, err, client.Written()-written)
	}
	if _, err := server.Receive(); err != io.EOF {
		t.Errorf("the peer hears %v", err)
	}
	if err := server.WriteBatch(batchOf(t, 70_000)); err != nil {
		t.Fatal(err)
	}
	if got, err := take(client, 70_000); err != nil || len(got) != 70_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A batch that waits is held twice: as plaintext, and as records.
func TestWhatCryptoTLSHoldsIsCounted(t *testing.T) {
	client, _ := stdPair(t, func(c net.Conn) net.Conn { return c })
	b := batchOf(t, record.BatchSize)
	if client.Held() != 0 {
		t.Errorf("at rest it holds %d bytes", client.Held())
	}
	for done := true; done; {
		var err error
		if done, err = client.Begin(b); err != nil {
			t.Fatal(err)
		}
	}
	if client.Held() < record.BatchSize {
		t.Errorf("it says that it holds %d bytes", client.Held())
	}
}

// While a tunnel waits it holds no buffer, and the peer's goodbye is told behind its last
// bytes.
func TestATunnelOfCryptoTLSRestsWithoutBuffers(t *testing.T) {
	client, server := stdPair(t, func(c net.Conn) net.Conn { return c })
	for _, n := range []int{1, 5000, 100_000, 1} {
		if err := client.WriteBatch(batchOf(t, n)); err != nil {
			t.Fatal(err)
		}
		if got, err := take(server, n); err != nil || len(got) != n {
			t.Fatalf("%d of %d bytes, %v", len(got), n, err)
		}
		ready := make(chan struct{})
		ticket := server.Rest(func() { close(ready) })
		if ticket == 0 || server.socket.in != nil || server.opened != nil || client.socket.out != nil {
			t.Fatalf("after %d bytes: ticket %d, %v, %v, %v", n, ticket, server.socket.in, server.opened, client.socket.out)
		}
		if err := client.WriteBatch(batchOf(t, 3)); err != nil {
			t.Fatal(err)
		}
		<-ready
		if got, err := take(server, 3); err != nil || len(got) != 3 {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := errors.Join(client.WriteBatch(batchOf(t, 7)), client.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if got, err := take(server, 8); len(got) != 7 || err != io.EOF {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
