// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

const typeChangeCipherSpec = 20

// twins are two readers of one stream with the same keys: ours and crypto/tls,
// and who forges the stream.
type twins struct {
	ours   *Conn
	theirs *tls.Conn
	feed   *script // of both; see read
	forger *forger
	client bool
}

// switchable is a connection whose reads can be taken over.
type switchable struct {
	net.Conn
	instead *script
}

func (s *switchable) Read(p []byte) (int, error) {
	if s.instead != nil {
		return s.instead.Read(p)
	}
	return s.Conn.Read(p)
}

func (s *switchable) Write(p []byte) (int, error) {
	if s.instead != nil {
		return s.instead.Write(p)
	}
	return s.Conn.Write(p)
}

// newTwins has two crypto/tls shake hands, and keeps the one that is to read.
func newTwins(t testing.TB, client bool) *twins {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	deadline := time.Now().Add(patience)
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	var log secrets
	cfg, err := log.config(fuzzConfig())
	if err != nil {
		t.Fatal(err)
	}
	wire := &switchable{Conn: near}
	other := fuzzConfig()
	other.SessionTicketsDisabled = true
	theirs, peer := tls.Client(wire, cfg), tls.Server(far, other)
	if !client {
		theirs, peer = tls.Server(wire, cfg), tls.Client(far, other)
	}
	var shaking sync.WaitGroup
	shaking.Go(func() { peer.Handshake() })
	if err := theirs.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	shaking.Wait()
	w := &twins{theirs: theirs, client: client, forger: &forger{t: t}}
	wire.instead = new(script)
	w.feed = wire.instead
	w.ours = newConn(new(script), client)
	in, out := log.server.bytes(), log.client.bytes()
	if !client {
		in, out = out, in
	}
	s := suites[theirs.ConnectionState().CipherSuite]
	for half, secret := range map[*half][]byte{&w.ours.in: in, &w.forger.out: in, &w.ours.out: out} {
		if err := half.begin(s, secret); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// fuzzConfig shakes hands with less work.
func fuzzConfig() *tls.Config {
	cfg := config()
	cfg.ClientAuth = tls.NoClientCert
	return cfg
}

// read is what each makes of the stream.
func (w *twins) read(stream []byte) (ours, theirs []byte, ourErr, theirErr error) {
	half := len(stream) / 2 // and a cut, wherever that is
	w.ours.socket.(*script).chunks = [][]byte{bytes.Clone(stream[:half]), bytes.Clone(stream[half:])}
	w.feed.chunks = [][]byte{bytes.Clone(stream)}
	ours, ourErr = io.ReadAll(w.ours)
	theirs, theirErr = io.ReadAll(w.theirs)
	return
}

// compare fails if crypto/tls refused what we took, or had other data. We may
// refuse more: strict says that crypto/tls is known to overlook what comes.
func (w *twins) compare(t *testing.T, stream []byte, strict bool) {
	t.Helper()
	ours, theirs, ourErr, theirErr := w.read(stream)
	switch {
	case !strict && !bytes.Equal(ours, theirs):
		t.Errorf("we read %d bytes (%v), crypto/tls %d (%v)", len(ours), ourErr, len(theirs), theirErr)
	case strict && !bytes.HasPrefix(theirs, ours):
		t.Errorf("we read %q (%v), crypto/tls %q (%v)", ours, ourErr, theirs, theirErr)
	}
	// The end of the stream without a close_notify is an error to us, and
	// between records none to crypto/tls.
	cut := errors.Is(ourErr, io.ErrUnexpectedEOF)
	if ourErr == nil && theirErr != nil {
		t.Errorf("we find no fault, crypto/tls: %v", theirErr)
	}
	if cut && theirErr != nil && !errors.Is(theirErr, io.ErrUnexpectedEOF) {
		t.Errorf("we find the stream cut, crypto/tls: %v", theirErr)
	}
	if !strict && !cut && ourErr != nil && theirErr == nil {
		t.Errorf("we find %v, crypto/tls no fault", ourErr)
	}
	if ourErr != nil && !cut {
		var fault *Error
		if !errors.As(ourErr, &fault) {
			t.Errorf("we end with %v", ourErr)
		}
	}
}

// FuzzOpen compares what a well-sealed record with any inner plaintext does.
func FuzzOpen(f *testing.F) {
	for _, inner := range []string{"\x17", "data\x17", "data\x17\x00\x00", "", "\x00\x00", "\x01\x00\x15", "\x02\x2a\x15", "\x01\x5a\x15",
		"\x18\x00\x00\x01\x00\x16", "\x18\x00\x00\x01\x01\x16", "\x18\x00\x00\x01\x02\x16", "\x01\x14", "\x18\x00\x00\x16", "x\x18"} {
		f.Add([]byte(inner), true)
		f.Add([]byte(inner), false)
	}
	f.Fuzz(func(t *testing.T, inner []byte, client bool) {
		if len(inner) > maxPlaintext+2 {
			return
		}
		w := newTwins(t, client)
		stream := w.forger.seal(inner)
		trimmed := bytes.TrimRight(inner, "\x00")
		if len(trimmed) > 0 && trimmed[len(trimmed)-1] == typeHandshake && trimmed[0] == messageTicket {
			w.read(stream) // crypto/tls parses tickets, we skip them
			return
		}
		// A plaintext without any content type is refused by RFC 8446 §5.4, a
		// protected change_cipher_spec by §5.
		strict := len(inner) == 0 || len(trimmed) > 0 && trimmed[len(trimmed)-1] == typeChangeCipherSpec
		stream = append(stream, w.forger.data("after")...)
		w.compare(t, stream, strict)
	})
}

// FuzzRecords compares what a sequence of records does, of which the input
// says, two bytes each, what they are.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{0, 5, 1, 3, 2, 0, 0, 9, 3, 0, 0, 1}, true)
	f.Add([]byte{0, 5, 4, 0, 0, 1}, false)
	f.Add([]byte{0, 200, 5, 7, 0, 1}, true)
	f.Add([]byte{6, 1, 7, 1, 8, 0, 0, 4}, false)
	f.Add([]byte{9, 3, 9, 2, 0, 1, 10, 0}, true)
	f.Add([]byte{11, 20, 0, 1}, true)
	f.Fuzz(func(t *testing.T, in []byte, client bool) {
		if len(in) > 60 { // crypto/tls bears 16 records without data, we 32
			in = in[:60]
		}
		w := newTwins(t, client)
		var stream []byte
		useless, strict := 0, false
		for ; len(in) >= 2; in = in[2:] {
			rec, data := w.forger.byScript(in[0], int(in[1]))
			stream = append(stream, rec...)
			// After the handshake no change_cipher_spec may come, RFC 8446 §5.
			strict = strict || in[0]%12 == 9 && in[1]%4 == 0 || in[0]%12 == 8 && in[1] == typeChangeCipherSpec
			if useless++; data {
				useless = 0
			}
			if useless > 16 {
				return
			}
		}
		// crypto/tls looks at a message when it has come to its end, or when data
		// comes in its midst.
		w.compare(t, append(stream, w.forger.data("end")...), strict)
	})
}

// byScript is one record, and whether it brings data.
func (f *forger) byScript(kind byte, n int) (rec []byte, data bool) {
	switch kind % 12 {
	default:
		return f.record(typeApplicationData, fill(n*70%maxPlaintext+1), n%5), true
	case 1:
		return f.record(typeApplicationData, nil, n), false
	case 2:
		return f.keyUpdate(0), false
	case 3:
		return f.keyUpdate(1), false
	case 4:
		return f.record(typeAlert, []byte{1, byte(n)}, 0), false
	case 5: // damaged
		rec = f.data("damaged")
		rec[headerSize+n%(len(rec)-headerSize)] ^= 1 << (n % 8)
		return rec, false
	case 6: // a KeyUpdate in part
		return f.record(typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, 0}[:1+n%4], 0), false
	case 7: // some message
		return f.record(typeHandshake, []byte{byte(n), 0, 0, 1, 0}, 0), false
	case 8:
		return f.record(byte(n), []byte{1}, 0), false
	case 9: // not protected
		return []byte{byte(typeChangeCipherSpec + n%4), 3, 3, 0, 1, 1}, false
	case 10: // a header's worth, or less
		return []byte{23, 3, 3, byte(n), 0}[:n%6], false
	case 11: // lost
		f.data("lost")
		return nil, false
	}
}

// FuzzStream has a Conn read anything at all, in two pieces.
func FuzzStream(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x12xxxxxxxxxxxxxxxxxx"), uint16(3))
	f.Add([]byte("\x17\x03\x03\x41\x01"), uint16(5))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		n := min(int(cut), len(stream))
		s := &script{chunks: [][]byte{bytes.Clone(stream[:n]), bytes.Clone(stream[n:])}}
		c := newConn(s, true)
		for _, half := range []*half{&c.in, &c.out} {
			if err := half.begin(suites[tls.TLS_AES_128_GCM_SHA256], fill(32)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(c)
		if len(got) > 0 || err == nil {
			t.Errorf("read %q, %v of bytes that nobody sealed", got, err)
		}
		c.Close()
	})
}
