// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// crowd is many connections that are held open together.
type crowd struct {
	mu    sync.Mutex // guards what follows
	socks []*socket
}

func (s *server) many(ctx context.Context, a Many) (Crowd, error) {
	held := &crowd{}
	s.mu.Lock()
	s.lastID++
	result := Crowd{ID: s.lastID}
	s.crowds[result.ID] = held
	s.mu.Unlock()
	spec := Socket{Network: a.Network}
	var dials, echoes series
	failed := inParallel(a.Count, a.Parallel, func(i int) error {
		start := time.Now()
		sock, err := dialSocket(ctx, spec, Connect{To: a.To, Timeout: a.Timeout})
		if err != nil {
			return err
		}
		dials.add(time.Since(start))
		held.add(sock)
		return echoes.time(func() error { return pingOnce(ctx, sock, uint64(i), a.Timeout) })
	})
	result.OK, result.Failed = echoes.len(), failed
	result.Connect, result.Echo = dials.quantiles(), echoes.quantiles()
	return result, nil
}

func (c *crowd) add(sock *socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.socks = append(c.socks, sock)
}

// manyCheck has each connection of the crowd echo once more.
func (s *server) manyCheck(ctx context.Context, a idArgs) (Crowd, error) {
	s.mu.Lock()
	held := s.crowds[a.ID]
	s.mu.Unlock()
	if held == nil {
		return Crowd{}, fmt.Errorf("no crowd %d", a.ID)
	}
	var echoes series
	failed := inParallel(len(held.socks), 0, func(i int) error {
		return echoes.time(func() error { return pingOnce(ctx, held.socks[i], uint64(i), a.Timeout) })
	})
	return Crowd{ID: a.ID, OK: echoes.len(), Failed: failed, Echo: echoes.quantiles()}, nil
}

func (s *server) manyClose(_ context.Context, a idArgs) (none struct{}, err error) {
	s.mu.Lock()
	held := s.crowds[a.ID]
	delete(s.crowds, a.ID)
	s.mu.Unlock()
	if held == nil {
		return none, fmt.Errorf("no crowd %d", a.ID)
	}
	for _, sock := range held.socks {
		sock.file.Close()
	}
	return none, nil
}

// pingOnce sends a message that no other connection sends and awaits it back.
func pingOnce(ctx context.Context, sock *socket, number uint64, timeout time.Duration) error {
	ctx, cancel := limit(ctx, timeout, defaultTimeout)
	defer cancel()
	defer sock.until(ctx, sock.file.SetDeadline)()
	message := binary.BigEndian.AppendUint64([]byte("culvert "), number)
	if _, err := sock.file.Write(message); err != nil {
		return err
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(sock.file, got); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	if string(got) != string(message) {
		return fmt.Errorf("another connection's bytes")
	}
	return nil
}

// inParallel does f for 0 to count-1 and counts the errors by name.
func inParallel(count, parallel int, f func(i int) error) map[string]int {
	if parallel <= 0 {
		parallel = 64
	}
	failed := make(map[string]int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(parallel, count) {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mu.Lock()
					failed[endOf(err)]++
					mu.Unlock()
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	wg.Wait()
	return failed
}

// series collects latencies.
type series struct {
	mu  sync.Mutex
	all []time.Duration
}

func (s *series) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

// time adds how long f took, unless it failed.
func (s *series) time(f func() error) error {
	start := time.Now()
	if err := f(); err != nil {
		return err
	}
	s.add(time.Since(start))
	return nil
}

func (s *series) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

func (s *series) quantiles() Quantiles {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.all)
	if n == 0 {
		return Quantiles{}
	}
	slices.Sort(s.all)
	at := func(percent int) time.Duration { return s.all[min(n*percent/100, n-1)] }
	return Quantiles{Count: n, P50: at(50), P90: at(90), P99: at(99), Max: s.all[n-1]}
}
