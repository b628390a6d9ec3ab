// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// warmUp is how long echoes do not count yet.
const warmUp = 50 * time.Millisecond

// rtt echoes messages, one after the other on each connection.
func rtt(o Order) (Answer, error) {
	conns, err := openEchoes(o)
	defer closeAll(conns)
	if err != nil {
		return Answer{}, err
	}
	var group errgroup.Group
	if o.Behind > 0 {
		group.Go(func() error {
			_, err := bulk(Order{To: o.To, Streams: o.Behind, Reverse: o.Reverse, Duration: o.Duration + 2*warmUp})
			return err
		})
	}
	samples := make([][]int64, len(conns))
	start := time.Now()
	for i, conn := range conns {
		group.Go(func() (err error) {
			begin, end := start.Add(warmUp), start.Add(warmUp+o.Duration)
			if o.Rate > 0 {
				samples[i], err = echoAtRate(conn, o, i, begin, end)
			} else {
				samples[i], err = echoFor(conn, o.Size, begin, end)
			}
			return err
		})
	}
	err = group.Wait()
	all := slices.Concat(samples...)
	if err == nil && len(all) == 0 {
		err = errors.New("no message came back in time")
	}
	return Answer{Count: len(all), Elapsed: o.Duration, Quantiles: quantiles(all)}, err
}

func openEchoes(o Order) (conns []socket, err error) {
	for range o.Streams {
		conn, err := o.connect()
		if err != nil {
			return conns, err
		}
		conns = append(conns, conn)
		if _, err := conn.Write(header(echo, o.Size)); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// connect connects, maybe through another worker's relay.
func (o Order) connect() (socket, error) {
	if !o.Via.IsValid() {
		return connect(o.To)
	}
	conn, err := connect(o.Via)
	if err != nil {
		return -1, err
	}
	to := o.To.Addr().As4()
	_, err = conn.Write(header(relay, int(binary.BigEndian.Uint32(to[:]))))
	return conn, err
}

// echoFor returns the times in nanoseconds of the echoes between two moments.
func echoFor(conn socket, size int, begin, end time.Time) ([]int64, error) {
	buf := make([]byte, size)
	samples := make([]int64, 0, 1<<17)
	for sent := time.Now(); sent.Before(end); {
		if _, err := conn.Write(buf); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return nil, err
		}
		now := time.Now()
		if sent.After(begin) {
			samples = append(samples, int64(now.Sub(sent)))
		}
		sent = now
	}
	return samples, nil
}

// echoAtRate is one of Streams connections that send by the clock, in turn. A
// time is that since the message was due: while one is late, others wait.
func echoAtRate(conn socket, o Order, turn int, begin, end time.Time) (samples []int64, err error) {
	buf := make([]byte, o.Size)
	between := time.Duration(float64(o.Streams) / o.Rate * float64(time.Second))
	for due := begin.Add(between * time.Duration(turn) / time.Duration(o.Streams)); due.Before(end); due = due.Add(between) {
		if wait := time.Until(due); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // Go's own timers are coarser
		}
		if _, err := conn.Write(buf); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return nil, err
		}
		samples = append(samples, int64(time.Since(due)))
	}
	return samples, nil
}

// quantiles are those at 0, 1/1000 … 1.
func quantiles(samples []int64) []float64 {
	if len(samples) == 0 {
		return nil
	}
	slices.Sort(samples)
	q := make([]float64, 1001)
	for i := range q {
		q[i] = float64(samples[i*(len(samples)-1)/1000])
	}
	return q
}
