// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

type writeArgs struct {
	ID      uint64        `json:"id"`
	Data    []byte        `json:"data"`
	Urgent  bool          `json:"urgent,omitempty"` // the last byte is sent as urgent
	Timeout time.Duration `json:"timeout,omitempty"`
}

func (s *server) write(ctx context.Context, a writeArgs) (n int, err error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return 0, err
	}
	ctx, cancel := limit(ctx, a.Timeout, defaultTimeout)
	defer cancel()
	defer sock.until(ctx, sock.file.SetWriteDeadline)()
	if a.Urgent {
		return sock.sendUrgent(a.Data)
	}
	return sock.file.Write(a.Data)
}

func (s *socket) sendUrgent(data []byte) (sent int, err error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	for sent < len(data) && err == nil {
		n := 0
		if werr := raw.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), data[sent:], nil, nil, unix.MSG_OOB)
			return err != unix.EAGAIN
		}); werr != nil {
			return sent, werr
		}
		sent += max(n, 0)
	}
	return sent, err
}

type readArgs struct {
	ID      uint64        `json:"id"`
	Max     int           `json:"max"`
	Full    bool          `json:"full,omitempty"` // exactly Max bytes
	Timeout time.Duration `json:"timeout,omitempty"`
}

func (s *server) read(ctx context.Context, a readArgs) ([]byte, error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := limit(ctx, a.Timeout, defaultTimeout)
	defer cancel()
	defer sock.until(ctx, sock.file.SetReadDeadline)()
	buf := make([]byte, min(a.Max, maxLine/2))
	var n int
	if a.Full {
		n, err = io.ReadFull(sock.file, buf)
	} else {
		n, err = sock.file.Read(buf)
	}
	return buf[:n], err
}

type transferArgs struct {
	ID uint64 `json:"id"`
	Transfer
}

func (s *server) transfer(ctx context.Context, a transferArgs) (Transferred, error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return Transferred{}, err
	}
	ctx, cancel := limit(ctx, a.Timeout, 5*time.Minute)
	defer cancel()
	defer sock.until(ctx, sock.file.SetDeadline)()
	start := time.Now()
	var t Transferred
	send := func(written func(n int) error) (err error) {
		t.Sent, t.SentHash, err = sendStream(sock.file, a.Transfer, written)
		if err == nil && a.Send > 0 && !a.Open {
			err = sock.closeWrite()
		}
		return err
	}
	if a.Turns {
		err = t.takeTurns(sock.file, send)
		t.Elapsed = time.Since(start)
		return t, err
	}
	sent := make(chan error, 1)
	go func() { sent <- send(nil) }()
	var rerr error
	t.Received, t.ReceivedHash, rerr = receive(sock.file, a.Receive, a.Rate)
	serr := <-sent
	t.Elapsed = time.Since(start)
	return t, errors.Join(serr, rerr)
}

// takeTurns reads after each write as many bytes.
func (t *Transferred) takeTurns(r io.Reader, send func(written func(int) error) error) error {
	h := sha256.New()
	err := send(func(n int) error {
		got, err := io.CopyN(h, r, int64(n))
		t.Received += got
		return err
	})
	t.ReceivedHash = hex.EncodeToString(h.Sum(nil))
	return err
}

// Stream is the endless pseudo-random byte stream that seed names, so that
// both ends know what 1 GiB should look like without sending it twice.
func Stream(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// StreamHash is the SHA-256 of the first size bytes of a Stream, in hex.
func StreamHash(seed uint64, size int64) string {
	h := sha256.New()
	_, _ = io.CopyN(h, Stream(seed), size)
	return hex.EncodeToString(h.Sum(nil))
}

// sendStream sends what t says, and calls written, if it is not nil, after
// each write.
func sendStream(w io.Writer, t Transfer, written func(n int) error) (sent int64, hash string, err error) {
	stream, h := Stream(t.Seed), sha256.New()
	buf := make([]byte, 64<<10)
	sizes := rand.New(rand.NewPCG(t.Seed, 0))
	for sent < t.Send && err == nil {
		most := len(buf)
		if t.Tiny > 0 {
			most = min(most, 1+sizes.IntN(t.Tiny))
		}
		chunk := buf[:min(int64(most), t.Send-sent)]
		_, _ = io.ReadFull(stream, chunk)
		var n int
		n, err = w.Write(chunk)
		h.Write(chunk[:n])
		sent += int64(n)
		if err == nil && written != nil {
			err = written(n)
		}
	}
	return sent, hex.EncodeToString(h.Sum(nil)), err
}

// receive reads want bytes, or to the end if want is negative, at most at rate.
func receive(r io.Reader, want, rate int64) (received int64, hash string, err error) {
	h := sha256.New()
	buf := make([]byte, 64<<10)
	if rate > 0 {
		buf = buf[:min(int64(len(buf)), max(rate/100, 1))]
	}
	start := time.Now()
	for want < 0 || received < want {
		chunk := buf
		if want >= 0 {
			chunk = buf[:min(int64(len(buf)), want-received)]
		}
		var n int
		n, err = r.Read(chunk)
		h.Write(chunk[:n])
		received += int64(n)
		if err != nil {
			break
		}
		if rate > 0 {
			due := time.Duration(float64(received) / float64(rate) * float64(time.Second))
			time.Sleep(due - time.Since(start))
		}
	}
	switch {
	case errors.Is(err, io.EOF) && want < 0:
		err = nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return received, hex.EncodeToString(h.Sum(nil)), err
}

// Send is what the smallest client does: connect, send text, half-close, and
// copy what comes back to w. connected is told the socket's names.
func Send(ctx context.Context, to netip.AddrPort, text string, connected func(Names), w io.Writer) error {
	sock, err := dialSocket(ctx, Socket{Network: "tcp"}, Connect{To: to})
	if err != nil {
		return err
	}
	defer sock.file.Close()
	defer sock.until(ctx, sock.file.SetDeadline)()
	connected(sock.names())
	if _, err := io.WriteString(sock.file, text); err != nil {
		return err
	}
	if err := sock.closeWrite(); err != nil {
		return err
	}
	_, err = io.Copy(w, sock.file)
	return err
}
