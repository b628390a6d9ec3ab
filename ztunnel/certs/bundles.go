// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// firstBundle is how long a replica may take to send its first bundle. One that has none
// waits for its CA; another may have it.
const firstBundle = 10 * time.Second

// sayAgain is how often a node repeats what rests on which root.
const sayAgain = 5 * time.Second

// maxTainted bounds the authorities that a bundle taints.
const maxTainted = 64

// Follow is a Follower's: it has one replica send the CA's bundles.
func (c *Client) Follow(ctx context.Context, known Bundle, take func(Bundle) error, rests func() []Rest) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ctx, err := c.authorize(ctx)
	if err != nil {
		return err
	}
	r, err := c.anyone(ctx)
	if err != nil {
		return c.problem(err)
	}
	late := time.AfterFunc(firstBundle, func() { end(errNoBundle) })
	defer late.Stop()
	err = r.stream(ctx, known, func(b Bundle) error {
		late.Stop()
		return take(b)
	}, rests)
	if errors.Is(context.Cause(ctx), errNoBundle) {
		err = status.Error(codes.Unavailable, errNoBundle.Error())
	}
	c.replicas.give(r, decisive(ctx, err))
	if status.Code(err) == codes.Unimplemented {
		return errNoStream
	}
	return c.problem(err)
}

var errNoBundle = fmt.Errorf("no bundle came within %v", firstBundle)

// anyone waits for a replica, which is to be given back.
func (c *Client) anyone(ctx context.Context) (*replica, error) {
	for {
		r, known, err := c.take(map[seat]bool{})
		switch {
		case err != nil:
			return nil, err
		case r != nil:
			return r, nil
		case known:
			return nil, status.Error(codes.Unavailable, "there is nobody to ask")
		}
		wait(ctx, lookAgain, nil)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// stream acknowledges each bundle that is taken, and then says what rests on its roots
// whenever that changes. What is not taken is said by take.
func (r *replica) stream(ctx context.Context, known Bundle, take func(Bundle) error, rests func() []Rest) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	stream, err := r.signer.StreamBundle(ctx)
	if err != nil {
		return err
	}
	s := &sayer{stream: stream, rests: rests}
	if err := s.first(known); err != nil {
		return recvError(stream)
	}
	var saying sync.WaitGroup
	defer saying.Wait()
	defer end()
	saying.Go(func() { s.run(ctx) })
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		b, err := bundleOf(message)
		if err != nil {
			return status.Errorf(codes.DataLoss, "bundle of generation %d: %v", message.GetGeneration(), err)
		}
		if take(b) != nil {
			continue
		}
		if err := s.ack(b); err != nil {
			return recvError(stream)
		}
	}
}

// sayer says on a stream what the node goes by.
type sayer struct {
	stream grpc.BidiStreamingClient[identityv1.BundleAck, identityv1.Bundle]
	rests  func() []Rest // nil: it is not known

	mu   sync.Mutex // guards what follows, and sending
	goes *Bundle    // by which; nil: none was acknowledged on this stream
	rest []Rest     // that was said last
	said time.Time
}

// first says what the node had before the stream.
func (s *sayer) first(known Bundle) error {
	return s.stream.Send(&identityv1.BundleAck{Generation: known.Generation, Sha256: known.Hash[:]})
}

func (s *sayer) ack(b Bundle) error {
	rest := s.ask()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goes, s.rest = &b, rest
	return s.sendLocked()
}

func (s *sayer) ask() []Rest {
	if s.rests == nil {
		return nil
	}
	return s.rests()
}

func (s *sayer) sendLocked() error {
	message := &identityv1.BundleAck{Generation: s.goes.Generation, Sha256: s.goes.Hash[:]}
	for _, r := range s.rest {
		message.Roots = append(message.Roots, &identityv1.RootUse{Key: r.Key[:], Certificates: uint32(r.Certificates), Tunnels: uint32(r.Tunnels)})
	}
	s.said = time.Now()
	return s.stream.Send(message)
}

// run says what rests on which root when that has changed, and now and then as long as there
// are several: for the CA counts what was said after something that it did. It ends with ctx.
// Whoever receives hears of an error.
func (s *sayer) run(ctx context.Context) {
	for wait(ctx, restEvery, nil); ctx.Err() == nil; wait(ctx, restEvery, nil) {
		rest := s.ask()
		s.mu.Lock()
		if s.goes != nil && (!slices.Equal(rest, s.rest) || rest != nil && time.Since(s.said) >= sayAgain) {
			s.rest = rest
			_ = s.sendLocked()
		}
		s.mu.Unlock()
	}
}

// recvError is why a message could not be sent: gRPC says it to whoever receives.
func recvError[A, M any](stream grpc.BidiStreamingClient[A, M]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// bundleOf reads a bundle. A root that Go does not understand must not cost us those
// that it does, but it counts for the hash.
func bundleOf(message *identityv1.Bundle) (Bundle, error) {
	b := Bundle{Generation: message.GetGeneration()}
	if len(message.GetRoots()) > identityv1.MaxRoots {
		return b, fmt.Errorf("it has %d roots, the limit is %d", len(message.GetRoots()), identityv1.MaxRoots)
	}
	var problem error
	raw := make([]*x509.Certificate, 0, len(message.GetRoots()))
	for _, der := range message.GetRoots() {
		raw = append(raw, &x509.Certificate{Raw: der})
		root, err := x509.ParseCertificate(der)
		if err != nil {
			problem = err
			continue
		}
		b.Roots = append(b.Roots, root)
	}
	b.Hash = identity.BundleHash(raw)
	for _, key := range message.GetTainted()[:min(len(message.GetTainted()), maxTainted)] {
		if len(key) == sha256.Size {
			b.Tainted = append(b.Tainted, sum(key))
		}
	}
	b.Foreign, b.Listed = foreignOf(message.GetFederated()), message.GetFederatedNumber()
	switch {
	case !slices.Equal(message.GetSha256(), b.Hash[:]):
		return b, fmt.Errorf("its hash is %x, and its roots have %x", message.GetSha256()[:min(len(message.GetSha256()), sha256.Size)], b.Hash)
	case len(b.Roots) == 0 && problem != nil:
		return b, problem
	}
	return b, b.check()
}
