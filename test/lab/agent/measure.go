// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func (m Measure) defaults(size int) Measure {
	if m.Duration <= 0 {
		m.Duration = time.Second
	}
	if m.Size <= 0 {
		m.Size = size
	}
	if m.Streams <= 0 {
		m.Streams = 1
	}
	return m
}

// latency sends one message after another through one connection to an echo
// server, and times each round trip.
func (s *server) latency(ctx context.Context, m Measure) (Quantiles, error) {
	m = m.defaults(64)
	sock, err := dialSocket(ctx, Socket{Network: m.Network}, Connect{To: m.To})
	if err != nil {
		return Quantiles{}, err
	}
	defer sock.file.Close()
	ctx, cancel := context.WithTimeout(ctx, m.Duration+defaultTimeout)
	defer cancel()
	defer sock.until(ctx, sock.file.SetDeadline)()
	var trips series
	message := make([]byte, m.Size)
	for end := time.Now().Add(m.Duration); time.Now().Before(end); {
		err := trips.time(func() error { return roundTrip(sock, message) })
		if err != nil {
			return trips.quantiles(), err
		}
	}
	return trips.quantiles(), nil
}

func roundTrip(sock *socket, message []byte) error {
	if _, err := sock.file.Write(message); err != nil {
		return err
	}
	for got := 0; got < len(message); {
		n, err := sock.file.Read(message[got:])
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

// throughput writes to a discard server as fast as it goes. Bytes count once
// written; the last of each stream are awaited by a half-close and its answer.
func (s *server) throughput(ctx context.Context, m Measure) (Throughput, error) {
	m = m.defaults(64 << 10)
	ctx, cancel := context.WithTimeout(ctx, m.Duration+defaultTimeout)
	defer cancel()
	var socks []*socket
	for range m.Streams {
		sock, err := dialSocket(ctx, Socket{Network: m.Network}, Connect{To: m.To})
		if err != nil {
			return Throughput{}, err
		}
		defer sock.file.Close()
		defer sock.until(ctx, sock.file.SetDeadline)()
		socks = append(socks, sock)
	}
	start := time.Now()
	end := start.Add(m.Duration)
	var bytes atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(socks))
	for i, sock := range socks {
		wg.Go(func() { errs[i] = pour(sock, make([]byte, m.Size), end, &bytes) })
	}
	wg.Wait()
	return Throughput{Bytes: bytes.Load(), Elapsed: time.Since(start)}, errors.Join(errs...)
}

func pour(sock *socket, chunk []byte, end time.Time, bytes *atomic.Int64) error {
	for time.Now().Before(end) {
		n, err := sock.file.Write(chunk)
		bytes.Add(int64(n))
		if err != nil {
			return err
		}
	}
	if err := sock.closeWrite(); err != nil {
		return err
	}
	_, _, err := receive(sock.file, -1, 0)
	return err
}

// connects opens and resets one connection after another and times connect().
func (s *server) connects(ctx context.Context, m Measure) (Quantiles, error) {
	m = m.defaults(1)
	var took series
	for end := time.Now().Add(m.Duration); time.Now().Before(end) && ctx.Err() == nil; {
		sock, err := openSocket(Socket{Network: m.Network}, m.To)
		if err != nil {
			return took.quantiles(), err
		}
		err = took.time(func() error { return sock.connect(ctx, Connect{To: m.To}) })
		if cerr := sock.reset(); err == nil && !errors.Is(cerr, os.ErrClosed) {
			err = cerr
		}
		if err != nil {
			return took.quantiles(), err
		}
	}
	return took.quantiles(), nil
}
