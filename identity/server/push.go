// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

const (
	// proveAgain is how often whoever opened a stream must still be who it was, with
	// jitter: the token may have ended, and the node's pod be gone.
	proveAgain = time.Minute
	// nodeStreams bounds the streams of one kind of one node, which needs one. For one
	// more the oldest ends: it may be of a connection that is dead, and that the node
	// knows to be.
	nodeStreams = 2
)

// ackRate bounds what a node says on one stream. An honest one answers what we send.
var ackRate = rate.Limit{PerSecond: 1, Burst: 10}

// news is what a stream sends: the latest, in one message or more, its generation (0:
// there is none yet), and a channel that is closed when there is a later one. The channel
// is made before the messages are read. What is new is in other messages, though its
// generation may be that of before.
type news[M any] func() (messages []*M, generation uint64, changed <-chan struct{})

// push sends a node what there is and all that follows, and hands acked what the node
// says, until the node leaves, is not who it was, or has too many streams. sent is 0
// for the node's first word, which is about what it had before. The end of the server
// is said by codes.Unavailable, so that the node goes to another.
func push[A, M any](s *Server, of *streams, stream grpc.BidiStreamingServer[A, M], latest news[M], acked func(c Caller, ack *A, sent uint64) error) error {
	ctx := stream.Context()
	d := newDecision(ctx)
	if err := s.opens(ctx, d); err != nil {
		s.recordCheck(d, err)
		return err
	}
	s.visits.note(d, nil)
	proved := time.Now()
	evicted, leave := of.enter(d.caller.Node)
	defer leave()
	said := make(chan *A)
	left := make(chan error, 1)
	go func() { left <- receive(ctx, stream, said) }()

	var sent uint64
	var last []*M
	greeted := false
	again := time.NewTimer(jittered(proveAgain))
	defer again.Stop()
	for {
		messages, generation, changed := latest()
		if !slices.Equal(messages, last) {
			for _, message := range messages {
				if err := stream.Send(message); err != nil {
					return err
				}
			}
			sent, last = generation, messages
		}
		select {
		case <-changed:
		case ack := <-said:
			about := sent
			if !greeted {
				greeted, about = true, 0
			}
			if err := acked(d.caller, ack, about); err != nil {
				return err
			}
		case <-again.C:
			switch err := s.attestAgain(ctx, d.caller.Node); {
			case err == nil:
				proved = time.Now()
			case status.Code(err) != codes.Unavailable || time.Since(proved) >= proofStale:
				s.recordCheck(d, err)
				return err
			}
			again.Reset(jittered(proveAgain))
		case err := <-left:
			return err
		case <-evicted:
			return status.Error(codes.Aborted, "the node has opened another stream")
		case <-ctx.Done():
			return status.Error(codes.Unavailable, context.Cause(ctx).Error())
		}
	}
}

// opens asks what CreateCertificate asks of the caller; no room is kept for the stream
// but its own.
func (s *Server) opens(ctx context.Context, d *decision) error {
	n, err := s.enter(ctx, d)
	if err != nil {
		return err
	}
	defer n.leave()
	release, err := s.spend(n.Node)
	if err == nil {
		release()
	}
	return err
}

// attestAgain asks whether the caller of a stream still speaks for the node.
func (s *Server) attestAgain(ctx context.Context, node string) error {
	d := newDecision(ctx)
	if err := s.attest(ctx, d); err != nil {
		return err
	}
	if d.caller.Node != node {
		return refusal(codes.Unauthenticated, identityv1.Reason_TOKEN_POD_DIFFERS, "authorization: the stream is of node %s, the token now of %s", node, d.caller.Node)
	}
	return nil
}

// receive hands over what the node says until it leaves.
func receive[A, M any](ctx context.Context, stream grpc.BidiStreamingServer[A, M], said chan<- *A) error {
	var left rate.Left
	for {
		ack, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !left.Spend(ackRate):
			return refusal(codes.ResourceExhausted, identityv1.Reason_TOO_MANY_REQUESTS, "the node acknowledges more than was sent")
		}
		select {
		case said <- ack:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// streams are those of one kind that are open, by node.
type streams struct {
	mu     sync.Mutex // guards byNode
	byNode map[string][]chan struct{}
}

func newStreams() *streams { return &streams{byNode: make(map[string][]chan struct{})} }

// enter counts a stream in until leave. evicted is closed when the node has too many.
func (st *streams) enter(node string) (evicted <-chan struct{}, leave func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	own := make(chan struct{})
	all := append(st.byNode[node], own)
	if len(all) > nodeStreams {
		close(all[0])
		all = all[1:]
	}
	st.byNode[node] = all
	return own, func() { st.leave(node, own) }
}

func (st *streams) leave(node string, own chan struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	var rest []chan struct{}
	for _, other := range st.byNode[node] {
		if other != own {
			rest = append(rest, other)
		}
	}
	if rest == nil {
		delete(st.byNode, node)
		return
	}
	st.byNode[node] = rest
}

// open reports whether the node has a stream.
func (st *streams) open(node string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.byNode[node]) > 0
}
