// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// maxLine bounds one request or response; bulk data is made where it is sent.
const maxLine = 16 << 20

// operation answers one request.
type operation func(ctx context.Context, args json.RawMessage) (any, error)

// server is the agent's end: sockets by number, operations by name.
type server struct {
	ops map[string]operation

	mu      sync.Mutex // guards what follows
	lastID  uint64
	sockets map[uint64]*socket
	servers map[uint64]*running
	crowds  map[uint64]*crowd
	cancel  map[uint64]context.CancelFunc // by request

	out sync.Mutex // one response line at a time
	enc *json.Encoder
}

// Serve answers requests from r on w until r ends, which is how an agent dies
// with the test that started it.
func Serve(r io.Reader, w io.Writer) error {
	s := &server{
		sockets: make(map[uint64]*socket),
		servers: make(map[uint64]*running),
		crowds:  make(map[uint64]*crowd),
		cancel:  make(map[uint64]context.CancelFunc),
		enc:     json.NewEncoder(w),
	}
	s.ops = map[string]operation{
		"open": op(s.open), "connect": op(s.connect), "dial": op(s.dial),
		"listen": op(s.listen), "accept": op(s.accept), "names": op(s.names),
		"option": op(s.option), "setoption": op(s.setOption),
		"read": op(s.read), "write": op(s.write), "transfer": op(s.transfer),
		"closewrite": op(s.closeWrite), "close": op(s.close), "reset": op(s.reset),
		"serve": op(s.serve), "served": op(s.served),
		"many": op(s.many), "manycheck": op(s.manyCheck), "manyclose": op(s.manyClose),
		"latency": op(s.latency), "throughput": op(s.throughput), "connects": op(s.connects),
		"get": op(s.get), "hello": op(s.hello),
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		s.begin(req)
	}
	return lines.Err()
}

// op gives an operation its argument and result types.
func op[A, R any](f func(context.Context, A) (R, error)) operation {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, fmt.Errorf("arguments: %w", err)
			}
		}
		return f(ctx, args)
	}
}

func (s *server) begin(req request) {
	if req.Op == "cancel" {
		s.mu.Lock()
		cancel := s.cancel[req.ID]
		s.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.cancel[req.ID] = cancel
	s.mu.Unlock()
	go s.answer(ctx, cancel, req)
}

func (s *server) answer(ctx context.Context, cancel context.CancelFunc, req request) {
	defer cancel()
	start := time.Now()
	var result any
	err := fmt.Errorf("unknown operation")
	if f, ok := s.ops[req.Op]; ok {
		start = time.Now()
		result, err = f(ctx, req.Args)
	}
	resp := response{ID: req.ID, Elapsed: time.Since(start)}
	if err != nil {
		resp.Error = newError(req.Op, err, resp.Elapsed)
	}
	// What was done before an error is still worth knowing: both are sent.
	if result != nil {
		raw, merr := json.Marshal(result)
		if merr != nil && resp.Error == nil {
			resp.Error = newError(req.Op, merr, resp.Elapsed)
		}
		resp.Result = raw
	}
	s.mu.Lock()
	delete(s.cancel, req.ID)
	s.mu.Unlock()
	s.out.Lock()
	defer s.out.Unlock()
	if err := s.enc.Encode(resp); err != nil && !errors.Is(err, os.ErrClosed) {
		fmt.Fprintf(os.Stderr, "answering %s: %v\n", req.Op, err)
	}
}

func (s *server) keep(sock *socket) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	s.sockets[s.lastID] = sock
	return s.lastID
}

func (s *server) socket(id uint64) (*socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sock, ok := s.sockets[id]
	if !ok {
		return nil, fmt.Errorf("socket %d: %w", id, net.ErrClosed)
	}
	return sock, nil
}

func (s *server) forget(id uint64) (*socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sock, ok := s.sockets[id]
	if !ok {
		return nil, fmt.Errorf("socket %d: %w", id, net.ErrClosed)
	}
	delete(s.sockets, id)
	delete(s.servers, id)
	return sock, nil
}

type hello struct {
	PID int `json:"pid"`
}

func (s *server) hello(context.Context, struct{}) (hello, error) {
	return hello{PID: os.Getpid()}, nil
}
