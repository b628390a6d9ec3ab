// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const defaultTimeout = 10 * time.Second

// opened names a socket to the test, with what the kernel calls its ends.
type opened struct {
	ID uint64 `json:"id"`
	Names
}

type dialArgs struct {
	Socket  Socket  `json:"socket"`
	Connect Connect `json:"connect"`
}

func (s *server) open(_ context.Context, a dialArgs) (opened, error) {
	sock, err := openSocket(a.Socket, a.Connect.To)
	if err != nil {
		return opened{}, err
	}
	return opened{ID: s.keep(sock), Names: sock.names()}, nil
}

type connectArgs struct {
	ID uint64 `json:"id"`
	Connect
}

func (s *server) connect(ctx context.Context, a connectArgs) (opened, error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return opened{}, err
	}
	ctx, cancel := limit(ctx, a.Timeout, defaultTimeout)
	defer cancel()
	err = sock.connect(ctx, a.Connect)
	return opened{ID: a.ID, Names: sock.names()}, err
}

func (s *server) dial(ctx context.Context, a dialArgs) (opened, error) {
	sock, err := dialSocket(ctx, a.Socket, a.Connect)
	if err != nil {
		return opened{}, err
	}
	return opened{ID: s.keep(sock), Names: sock.names()}, nil
}

func dialSocket(ctx context.Context, spec Socket, c Connect) (*socket, error) {
	sock, err := openSocket(spec, c.To)
	if err != nil {
		return nil, err
	}
	ctx, cancel := limit(ctx, c.Timeout, defaultTimeout)
	defer cancel()
	if err := sock.connect(ctx, c); err != nil {
		sock.file.Close()
		return nil, err
	}
	return sock, nil
}

func limit(ctx context.Context, timeout, otherwise time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		timeout = otherwise
	}
	return context.WithTimeout(ctx, timeout)
}

type listenArgs struct {
	Socket
	Backlog int `json:"backlog"`
}

func (s *server) listen(_ context.Context, a listenArgs) (opened, error) {
	sock, err := listenSocket(a.Socket, a.Backlog)
	if err != nil {
		return opened{}, err
	}
	return opened{ID: s.keep(sock), Names: sock.names()}, nil
}

func listenSocket(spec Socket, backlog int) (*socket, error) {
	if !spec.Bind.IsValid() {
		return nil, fmt.Errorf("a listener needs an address")
	}
	if backlog == 0 {
		backlog = 4096
	}
	sock, err := openSocket(spec, netip.AddrPort{})
	if err != nil {
		return nil, err
	}
	if sock.stream {
		if err := sock.listen(backlog); err != nil {
			sock.file.Close()
			return nil, fmt.Errorf("listen %v: %w", spec.Bind, err)
		}
	}
	return sock, nil
}

type idArgs struct {
	ID      uint64        `json:"id"`
	Timeout time.Duration `json:"timeout,omitempty"`
}

func (s *server) accept(ctx context.Context, a idArgs) (opened, error) {
	ln, err := s.socket(a.ID)
	if err != nil {
		return opened{}, err
	}
	ctx, cancel := limit(ctx, a.Timeout, defaultTimeout)
	defer cancel()
	sock, err := ln.accept(ctx)
	if err != nil {
		return opened{}, err
	}
	return opened{ID: s.keep(sock), Names: sock.names()}, nil
}

func (s *server) names(_ context.Context, a idArgs) (Names, error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return Names{}, err
	}
	return sock.names(), nil
}

type optionArgs struct {
	ID uint64 `json:"id"`
	Option
}

func (s *server) option(_ context.Context, a optionArgs) (value int, err error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return 0, err
	}
	if cerr := sock.raw.Control(func(fd uintptr) {
		value, err = unix.GetsockoptInt(int(fd), a.Level, a.Name)
	}); cerr != nil {
		return 0, cerr
	}
	return value, err
}

func (s *server) setOption(_ context.Context, a optionArgs) (none struct{}, err error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return none, err
	}
	if cerr := sock.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), a.Level, a.Name, a.Value)
	}); cerr != nil {
		return none, cerr
	}
	return none, err
}

func (s *server) closeWrite(_ context.Context, a idArgs) (none struct{}, err error) {
	sock, err := s.socket(a.ID)
	if err != nil {
		return none, err
	}
	return none, sock.closeWrite()
}

func (s *server) close(_ context.Context, a idArgs) (none struct{}, err error) {
	sock, err := s.forget(a.ID)
	if err != nil {
		return none, err
	}
	return none, sock.file.Close()
}

func (s *server) reset(_ context.Context, a idArgs) (none struct{}, err error) {
	sock, err := s.forget(a.ID)
	if err != nil {
		return none, err
	}
	return none, sock.reset()
}

// get answers a probe: a connection of its own, no proxy, no redirects.
func (s *server) get(ctx context.Context, a Request) (Answer, error) {
	ctx, cancel := limit(ctx, a.Timeout, 5*time.Second)
	defer cancel()
	client := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL, nil)
	if err != nil {
		return Answer{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return Answer{Status: resp.StatusCode, Body: string(body)}, err
}
