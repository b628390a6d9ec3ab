// SPDX-License-Identifier: Apache-2.0

package load

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// open opens, uses and closes connections, each of Streams one after the other.
func open(o Order) (Answer, error) {
	if o.Rate > 0 {
		return openAtRate(o)
	}
	var done atomic.Int64
	var group errgroup.Group
	start := time.Now()
	end := start.Add(o.Duration)
	for range o.Streams {
		group.Go(func() error {
			for time.Now().Before(end) {
				if err := once(o); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return Answer{Count: int(done.Load()), Elapsed: time.Since(start)}, err
}

// once opens a connection, has one message echoed, and closes it.
func once(o Order) error {
	conn, err := connect(o.To)
	if err != nil {
		return err
	}
	defer conn.close()
	if _, err := conn.Write(append(header(echo, o.Size), make([]byte, o.Size)...)); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, o.Size))
	return err
}

// openAtRate begins connections by the clock, with at most Streams at once:
// what would be more than that is lost, as at a server whose queue is full.
// Those that are done in time count; failures do not stop it.
func openAtRate(o Order) (Answer, error) {
	var done atomic.Int64
	var all sync.WaitGroup
	room := make(chan struct{}, o.Streams)
	start := time.Now()
	end := start.Add(o.Duration)
	for i := 0; ; i++ {
		at := start.Add(time.Duration(float64(i) / o.Rate * float64(time.Second)))
		if at.After(end) {
			break
		}
		time.Sleep(time.Until(at))
		select {
		case room <- struct{}{}:
		default:
			continue
		}
		all.Go(func() {
			if once(o) == nil && time.Now().Before(end) {
				done.Add(1)
			}
			<-room
		})
	}
	all.Wait()
	return Answer{Count: int(done.Load()), Elapsed: o.Duration}, nil
}

// first times connections from before connect() until the first Size bytes have
// come. At least one, whatever the Duration.
func first(o Order) (Answer, error) {
	var samples []int64
	buf := make([]byte, o.Size)
	start := time.Now()
	for end := start.Add(o.Duration); len(samples) == 0 || time.Now().Before(end); {
		begin := time.Now()
		conn, err := connect(o.To)
		if err != nil {
			return Answer{}, err
		}
		if _, err = conn.Write(header(push, o.Size)); err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		samples = append(samples, int64(time.Since(begin)))
		conn.close()
		if err != nil {
			return Answer{}, err
		}
	}
	return Answer{Count: len(samples), Elapsed: time.Since(start), Quantiles: quantiles(samples)}, nil
}
