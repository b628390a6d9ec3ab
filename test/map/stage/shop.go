// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const (
	port = 8080

	strict = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: shop
spec:
  mtls:
    mode: STRICT
`
)

// shop is two nodes, a client and a server in the mesh, and a client outside.
type shop struct {
	lab       *lab.Lab
	web, till *lab.Pod
	open      []*agent.Conn
}

func newShop(ctx context.Context) (_ *shop, addresses []string, err error) {
	s := &shop{}
	if s.lab, err = lab.New(ctx, lab.Options{}); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lab.Close())
		}
	}()
	if err := s.lab.Namespace("shop", map[string]string{"culvert.dev/mesh": "enabled"}); err != nil {
		return nil, nil, err
	}
	if s.web, err = s.lab.Nodes[0].Pod(ctx, lab.PodSpec{Namespace: "shop", Name: "web", ServiceAccount: "web"}); err != nil {
		return nil, nil, err
	}
	if s.till, err = s.lab.Nodes[1].Pod(ctx, lab.PodSpec{Namespace: "shop", Name: "till", ServiceAccount: "till"}); err != nil {
		return nil, nil, err
	}
	if _, err := s.till.Serve(ctx, agent.Echo, port); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(s.web.AwaitEnrolled(ctx), s.till.AwaitEnrolled(ctx)); err != nil {
		return nil, nil, err
	}
	for _, n := range s.lab.Nodes {
		address, err := n.ExposeAdmin(ctx)
		if err != nil {
			return nil, nil, err
		}
		addresses = append(addresses, address)
	}
	return s, addresses, nil
}

func (s *shop) close() error { return s.lab.Close() }

// do is one of: talk (web to till, and stay), say (more on what is open), knock (from outside
// to till), strict, permissive.
func (s *shop) do(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	to := s.till.At("tcp4", port)
	switch line {
	case "talk":
		conn, err := s.web.Dial(ctx, "tcp", to)
		if err != nil {
			return "", err
		}
		s.open = append(s.open, conn)
		return "talked", conn.Ping(ctx, "one coffee, please")
	case "say":
		for _, conn := range s.open {
			if err := conn.Ping(ctx, strings.Repeat("and sugar ", 2000)); err != nil {
				return "", err
			}
		}
		return "said", nil
	case "knock":
		if err := s.lab.Outside.Ping(ctx, "tcp", to, "let me in"); err != nil {
			return fmt.Sprintf("refused: %v", err), nil
		}
		return "let in", nil
	case "strict":
		return "strict", errors.Join(s.lab.Apply(strict), s.lab.Settle(ctx))
	case "permissive":
		return "permissive", errors.Join(s.lab.Delete("PeerAuthentication", "shop", "default"), s.lab.Settle(ctx))
	}
	return "", fmt.Errorf("%q: want talk, say, knock, strict or permissive", line)
}
