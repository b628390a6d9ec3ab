// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Kinds of rows.
const (
	Bulk    = "bulk"
	Request = "request"
	Connect = "connect"
)

// patience is what a turn may take beyond its time.
const patience = 20 * time.Second

// Row is one thing to measure.
type Row struct {
	Kind        string
	Connections int // at once
}

// Name is how people call it.
func (r Row) Name() string {
	if r.Connections == 1 {
		return r.Kind + ", 1 connection"
	}
	return fmt.Sprintf("%s, %d connections", r.Kind, r.Connections)
}

// Unit is what a result counts.
func (r Row) Unit() string {
	return map[string]string{Bulk: "Gbit/s", Request: "requests/s", Connect: "connections/s"}[r.Kind]
}

// sample is what one turn measured.
type sample struct {
	bytes, operations uint64
	elapsed           time.Duration
	latencies         latencies
}

// value is in the unit of the row.
func (s *sample) value(r Row) float64 {
	if r.Kind == Bulk {
		return float64(s.bytes) * 8 / 1e9 / s.elapsed.Seconds()
	}
	return float64(s.operations) / s.elapsed.Seconds()
}

// measure takes one turn at a server.
func (r Row) measure(ctx context.Context, address string, d time.Duration) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, d+patience)
	defer cancel()
	if r.Kind == Connect {
		return r.connects(ctx, address, d)
	}
	mode := byte(modeBulk)
	if r.Kind == Request {
		mode = modeRequest
	}
	conns := make([]*net.TCPConn, r.Connections)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	var dials, group errgroup.Group
	dials.SetLimit(16)
	for i := range conns {
		dials.Go(func() (err error) {
			conns[i], err = dial(ctx, address, mode)
			return err
		})
	}
	if err := dials.Wait(); err != nil {
		return s, err
	}
	defer context.AfterFunc(ctx, func() {
		for _, conn := range conns {
			conn.SetDeadline(time.Now())
		}
	})()
	var mu sync.Mutex
	begin := time.Now()
	for _, conn := range conns {
		group.Go(func() error {
			var part sample
			var err error
			if r.Kind == Bulk {
				part.bytes, err = fill(conn, begin.Add(d))
			} else {
				err = ask(conn, begin.Add(d), &part)
			}
			mu.Lock()
			defer mu.Unlock()
			s.add(&part)
			return err
		})
	}
	err = group.Wait()
	s.elapsed = time.Since(begin)
	return s, named(ctx, err)
}

func (s *sample) add(o *sample) {
	s.bytes += o.bytes
	s.operations += o.operations
	s.latencies.merge(&o.latencies)
}

// named is err, or that the time was over before an answer came.
func named(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in %v beyond the turn: %w", patience, err)
	}
	return err
}

// dial opens a connection whose server said yes.
func dial(ctx context.Context, address string, mode byte) (*net.TCPConn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	opened, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := opened.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	_, err = conn.Write(append([]byte(greeting), mode))
	var said [1]byte
	if err == nil {
		_, err = io.ReadFull(conn, said[:])
	}
	if err == nil && said[0] != yes {
		err = errors.New("it is no culvert bench serve")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: connected, and then: %w", address, err)
	}
	return conn, nil
}

// fill writes until end, and returns what the server says to have got.
func fill(conn *net.TCPConn, end time.Time) (uint64, error) {
	buffer := make([]byte, block)
	var sent uint64
	for { // once at least
		n, err := conn.Write(buffer)
		sent += uint64(n)
		if err != nil {
			return 0, err
		}
		if !time.Now().Before(end) {
			break
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	var got [8]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return 0, fmt.Errorf("await the server's count: %w", err)
	}
	if n := binary.BigEndian.Uint64(got[:]); n != sent {
		return 0, fmt.Errorf("of %d bytes %d arrived", sent, n)
	}
	return sent, nil
}

// ask asks until end, one request after the other, and once at least.
func ask(conn *net.TCPConn, end time.Time, s *sample) error {
	var request, got [requestSize]byte
	for {
		begin := time.Now()
		if _, err := conn.Write(request[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, got[:]); err != nil {
			return err
		}
		s.operations++
		s.latencies.add(time.Since(begin))
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// connects opens connections, one after the other in each of several lanes.
func (r Row) connects(ctx context.Context, address string, d time.Duration) (s sample, err error) {
	var group errgroup.Group
	var mu sync.Mutex
	begin := time.Now()
	for range r.Connections {
		group.Go(func() error {
			var part sample
			for once := true; once || time.Since(begin) < d; once = false {
				at := time.Now()
				conn, err := dial(ctx, address, modeRequest)
				if err != nil {
					return err
				}
				conn.Close()
				part.operations++
				part.latencies.add(time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			s.add(&part)
			return nil
		})
	}
	err = group.Wait()
	s.elapsed = time.Since(begin)
	return s, named(ctx, err)
}

// latencies are those of a turn, or a fair part of them if they are very many.
type latencies struct {
	kept []time.Duration
	seen int
}

const latenciesMost = 1 << 17

func (l *latencies) add(d time.Duration) {
	l.seen++
	if len(l.kept) < latenciesMost {
		l.kept = append(l.kept, d)
	} else if at := rand.IntN(l.seen); at < latenciesMost {
		l.kept[at] = d
	}
}

func (l *latencies) merge(o *latencies) {
	l.kept = append(l.kept, o.kept...)
	l.seen += o.seen
}

// at returns the latency below which that part of all is, 0 if there are none.
func (l *latencies) at(part float64) time.Duration {
	if len(l.kept) == 0 {
		return 0
	}
	slices.Sort(l.kept)
	return l.kept[min(len(l.kept)-1, int(part*float64(len(l.kept))))]
}
