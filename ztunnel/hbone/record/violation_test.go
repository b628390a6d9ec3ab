// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// expectEnd reads what came before the end, and compares both.
func expectEnd(t *testing.T, c *Conn, want string, alert tls.AlertError, remote bool) {
	t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != want {
		t.Errorf("got %d bytes %.40q before the end, want %.40q", len(got), got, want)
	}
	var fault *Error
	if !errors.As(err, &fault) || fault.Alert != alert || fault.Remote != remote {
		t.Errorf("ended with %v, want %v, remote %v", err, alert, remote)
	}
}

func TestWhatThePeerMayNotDoEndsTheConnectionWithAnAlert(t *testing.T) {
	raw := func(kind, minor byte, n int, body []byte) []byte {
		return append([]byte{kind, 3, minor, byte(n >> 8), byte(n)}, body...)
	}
	ticket := func(n int) []byte { return append([]byte{messageTicket, 0, byte(n >> 8), byte(n)}, make([]byte, n)...) }
	keyUpdate := []byte{messageKeyUpdate, 0, 0, 1, 0}
	repeat := func(n int, f func() []byte) (all [][]byte) {
		for range n {
			all = append(all, f())
		}
		return all
	}
	one := func(b []byte) [][]byte { return [][]byte{b} }
	for _, tc := range []struct {
		name    string
		server  bool // our role; usually we are the client
		records func(f *forger) [][]byte
		alert   tls.AlertError
	}{
		{"forged body", false, func(f *forger) [][]byte { r := f.data("x"); r[headerSize] ^= 1; return one(r) }, alertBadRecordMAC},
		{"forged tag", false, func(f *forger) [][]byte { r := f.data("x"); r[len(r)-1] ^= 0x80; return one(r) }, alertBadRecordMAC},
		{"lengthened", false, func(f *forger) [][]byte { r := append(f.data("x"), 0); r[4]++; return one(r) }, alertBadRecordMAC},
		{"shortened", false, func(f *forger) [][]byte { r := f.data("xy"); r[4]--; return one(r[:len(r)-1]) }, alertBadRecordMAC},
		{"shorter than a tag", false, func(f *forger) [][]byte { return one(raw(23, 3, 15, make([]byte, 15))) }, alertBadRecordMAC},
		{"empty ciphertext", false, func(f *forger) [][]byte { return one(raw(23, 3, 0, nil)) }, alertBadRecordMAC},
		{"record of the old key", false, func(f *forger) [][]byte {
			old := half{iv: f.out.iv, seq: f.out.seq + 1, suite: f.out.suite, secret: f.out.secret}
			key, err := old.expand("key", old.suite.keySize)
			if err == nil {
				old.aead, err = newAEAD(key) // of its own: update erases the other
			}
			if err != nil {
				f.t.Fatal(err)
			}
			update := f.keyUpdate(0)
			f.out = old
			return [][]byte{update, f.data("x")}
		}, alertBadRecordMAC},
		{"replayed", false, func(f *forger) [][]byte { r := f.data("again"); f.send(r); return one(r) }, alertBadRecordMAC},
		{"reordered", false, func(f *forger) [][]byte { a := f.data("a"); b := f.data("b"); return [][]byte{b, a} }, alertBadRecordMAC},
		{"skipped", false, func(f *forger) [][]byte { f.data("lost"); return one(f.data("b")) }, alertBadRecordMAC},
		{"longest plus one, by its header alone", false, func(f *forger) [][]byte { return one(raw(23, 3, maxCiphertext+1, nil)) }, alertRecordOverflow},
		{"plaintext over 2^14", false, func(f *forger) [][]byte { return one(f.record(23, make([]byte, maxPlaintext+1), 0)) }, alertRecordOverflow},
		{"padding over 2^14", false, func(f *forger) [][]byte { return one(f.record(23, make([]byte, maxPlaintext), 1)) }, alertRecordOverflow},
		{"only padding", false, func(f *forger) [][]byte { return one(f.seal(make([]byte, 100))) }, alertUnexpectedMessage},
		{"not even padding", false, func(f *forger) [][]byte { return one(f.seal(nil)) }, alertUnexpectedMessage},
		{"another version", false, func(f *forger) [][]byte { r := f.data("x"); r[2] = 1; return one(r) }, alertProtocolVersion},
		{"change_cipher_spec in the clear", false, func(f *forger) [][]byte { return one(raw(20, 3, 1, []byte{1})) }, alertUnexpectedMessage},
		{"change_cipher_spec", false, func(f *forger) [][]byte { return one(f.record(20, []byte{1}, 0)) }, alertUnexpectedMessage},
		{"alert in the clear", false, func(f *forger) [][]byte { return one(raw(21, 3, 2, []byte{1, 0})) }, alertUnexpectedMessage},
		{"handshake in the clear", false, func(f *forger) [][]byte { return one(raw(22, 3, 5, keyUpdate)) }, alertUnexpectedMessage},
		{"unknown content type", false, func(f *forger) [][]byte { return one(f.record(24, []byte("x"), 0)) }, alertUnexpectedMessage},
		{"33 empty records", false, func(f *forger) [][]byte {
			return repeat(uselessLimit+1, func() []byte { return f.record(23, nil, 7) })
		}, alertUnexpectedMessage},
		{"33 user_canceled", false, func(f *forger) [][]byte {
			return repeat(uselessLimit+1, func() []byte { return f.record(21, []byte{1, 90}, 0) })
		}, alertUnexpectedMessage},
		{"33 tickets", false, func(f *forger) [][]byte {
			return repeat(uselessLimit+1, func() []byte { return f.record(22, ticket(99), 0) })
		}, alertUnexpectedMessage},
		{"33 KeyUpdates at once", false, func(f *forger) [][]byte {
			var all [][]byte
			for range int(keyUpdateRate.Burst) + 1 {
				all = append(all, f.keyUpdate(1), f.data("."))
			}
			f.send(all[:len(all)-2]...)
			return all[len(all)-2 : len(all)-1]
		}, alertUnexpectedMessage},
		{"alert of one byte", false, func(f *forger) [][]byte { return one(f.record(21, []byte{1}, 0)) }, alertUnexpectedMessage},
		{"empty alert", false, func(f *forger) [][]byte { return one(f.record(21, nil, 0)) }, alertUnexpectedMessage},
		{"two alerts in a record", false, func(f *forger) [][]byte { return one(f.record(21, []byte{1, 90, 1, 0}, 0)) }, alertUnexpectedMessage},
		{"empty handshake record", false, func(f *forger) [][]byte { return one(f.record(22, nil, 0)) }, alertUnexpectedMessage},
		{"data within a message", false, func(f *forger) [][]byte { return [][]byte{f.record(22, keyUpdate[:3], 0), f.data("x")} }, alertUnexpectedMessage},
		{"empty data within a message", false, func(f *forger) [][]byte { return [][]byte{f.record(22, keyUpdate[:3], 0), f.data("")} }, alertUnexpectedMessage},
		{"close_notify within a message", false, func(f *forger) [][]byte {
			return [][]byte{f.record(22, keyUpdate[:4], 0), f.record(21, []byte{1, 0}, 0)}
		}, alertUnexpectedMessage},
		{"message behind a KeyUpdate", false, func(f *forger) [][]byte { return one(f.record(22, append(keyUpdate, ticket(20)...), 0)) }, alertUnexpectedMessage},
		{"two KeyUpdates in a record", false, func(f *forger) [][]byte {
			return one(f.record(22, append(append([]byte(nil), keyUpdate...), keyUpdate...), 0))
		}, alertUnexpectedMessage},
		{"KeyUpdate of no byte", false, func(f *forger) [][]byte { return one(f.record(22, []byte{24, 0, 0, 0}, 0)) }, alertDecodeError},
		{"KeyUpdate of two bytes", false, func(f *forger) [][]byte { return one(f.record(22, []byte{24, 0, 0, 2, 0, 0}, 0)) }, alertDecodeError},
		{"KeyUpdate of 2^24-1 bytes", false, func(f *forger) [][]byte { return one(f.record(22, []byte{24, 255, 255, 255}, 0)) }, alertDecodeError},
		{"KeyUpdate with an unknown request", false, func(f *forger) [][]byte { return one(f.record(22, []byte{24, 0, 0, 1, 2}, 0)) }, alertIllegalParameter},
		{"ticket of 13 bytes", false, func(f *forger) [][]byte { return one(f.record(22, ticket(13), 0)) }, alertDecodeError},
		{"ticket of 2^24-1 bytes", false, func(f *forger) [][]byte { return one(f.record(22, []byte{4, 255, 255, 255}, 0)) }, alertDecodeError},
		{"ticket from a client", true, func(f *forger) [][]byte { return one(f.record(22, ticket(99), 0)) }, alertUnexpectedMessage},
		{"CertificateRequest", false, func(f *forger) [][]byte { return one(f.record(22, []byte{13, 0, 0, 3, 0, 0, 0}, 0)) }, alertUnexpectedMessage},
		{"ClientHello", true, func(f *forger) [][]byte { return one(f.record(22, []byte{1, 0, 0, 1, 0}, 0)) }, alertUnexpectedMessage},
		{"HelloRequest", false, func(f *forger) [][]byte { return one(f.record(22, []byte{0, 0, 0, 0}, 0)) }, alertUnexpectedMessage},
		{"Finished", false, func(f *forger) [][]byte { return one(f.record(22, []byte{20, 0, 0, 32}, 0)) }, alertUnexpectedMessage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, f := forge(t, !tc.server)
			want := "before"
			switch tc.name {
			case "replayed":
				want += "again"
			case "33 KeyUpdates at once":
				want += "................................"
			}
			f.send(f.data("before"))
			f.send(tc.records(f)...)
			expectEnd(t, c, want, tc.alert, false)
			if _, err := c.Receive(); err == nil {
				t.Error("Receive goes on after the end")
			}
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("Write goes on after the end")
			}
			if c.in.aead != nil || c.out.aead != nil || c.in.secret != [48]byte{} || c.out.secret != [48]byte{} {
				t.Error("keys survive the end")
			}
			expectEnd(t, f.in, "", tc.alert, true)
		})
	}
}

// TestNoBitOfARecordCanBeChanged flips each bit of a record in turn.
func TestNoBitOfARecordCanBeChanged(t *testing.T) {
	_, f := forge(t, true)
	rec := f.data("some bytes")
	for bit := range len(rec) * 8 {
		damaged := bytes.Clone(rec)
		damaged[bit/8] ^= 1 << (bit % 8)
		// What the damage lacks in length follows, or we would wait for it.
		got, err := openOffline(f, true, append(damaged, make([]byte, 1<<16)...))
		var fault *Error
		if len(got) > 0 || !errors.As(err, &fault) {
			t.Fatalf("bit %d: got %q, %v", bit, got, err)
		}
	}
}

// openOffline has a Conn with the keys that f began with read a stream.
func openOffline(f *forger, client bool, stream []byte) ([]byte, error) {
	c := newConn(&script{chunks: [][]byte{stream}}, client)
	if err := c.in.begin(f.out.suite, f.out.secret[:f.out.suite.secretSize]); err != nil {
		return nil, err
	}
	if err := c.out.begin(f.out.suite, make([]byte, f.out.suite.secretSize)); err != nil {
		return nil, err
	}
	defer c.Close()
	return io.ReadAll(c)
}

func TestAConnectionCutOffIsNoCloseNotify(t *testing.T) {
	_, f := forge(t, true)
	first, second := f.data("first"), f.data("second")
	stream := append(bytes.Clone(first), second...)
	for n := range len(stream) + 1 {
		want := ""
		if n >= len(first) {
			want = "first"
		}
		if n == len(stream) {
			want += "second"
		}
		got, err := openOffline(f, true, stream[:n])
		if string(got) != want || err != io.ErrUnexpectedEOF {
			t.Fatalf("after %d bytes: %q, %v; want %q, %v", n, got, err, want, io.ErrUnexpectedEOF)
		}
	}
	c, f := forge(t, true)
	f.send(f.data("data"))
	f.socket.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "data" || err != io.ErrUnexpectedEOF {
		t.Errorf("socket: %q, %v", got, err)
	}
}

func TestAFatalAlertOfThePeerIsReported(t *testing.T) {
	c, f := forge(t, true)
	f.send(f.data("data"), f.record(typeAlert, []byte{alertLevelFatal, 42}, 0), f.data("ignored"))
	expectEnd(t, c, "data", 42, true)
	if _, err := c.Write([]byte("x")); !errors.As(err, new(*Error)) {
		t.Errorf("Write after the peer's alert: %v", err)
	}
	c.Close()
	if _, err := f.in.Receive(); err != io.ErrUnexpectedEOF && !errors.Is(err, net.ErrClosed) {
		var op *net.OpError
		if !errors.As(err, &op) {
			t.Errorf("peer got %v, want no answer to an alert", err)
		}
	}
}

func TestUserCanceledIsIgnored(t *testing.T) {
	c, f := forge(t, true)
	f.send(f.record(typeAlert, []byte{1, 90}, 0), f.data("goes on"), f.record(typeAlert, []byte{1, 0}, 0))
	if got, err := io.ReadAll(c); string(got) != "goes on" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatFollowsACloseNotifyIsIgnored(t *testing.T) {
	c, f := forge(t, true)
	f.send(f.data("data"), f.record(typeAlert, []byte{1, 0}, 0), f.data("late"), []byte("rubbish"))
	got, err := io.ReadAll(c)
	if string(got) != "data" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("Receive after the end: %v", err)
	}
	// The other direction is still open.
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f.in); string(got) != "answer" || err != nil {
		t.Errorf("peer got %q, %v", got, err)
	}
	if _, err := c.Write([]byte("x")); err != errShutdown {
		t.Errorf("Write after CloseWrite: %v", err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Errorf("second CloseWrite: %v", err)
	}
}
