// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
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

// Follow is a follower's: it has one replica send the CA's bundles.
func (c *Client) Follow(ctx context.Context, known Bundle, take func(Bundle) error) error {
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
	})
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

// stream acknowledges each bundle that is taken. What is not is said by take.
func (r *replica) stream(ctx context.Context, known Bundle, take func(Bundle) error) error {
	stream, err := r.signer.StreamBundle(ctx)
	if err != nil {
		return err
	}
	ack := func(b Bundle) error {
		return stream.Send(&identityv1.BundleAck{Generation: b.Generation, Sha256: b.Hash[:]})
	}
	if err := ack(known); err != nil {
		return recvError(stream)
	}
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
		if err := ack(b); err != nil {
			return recvError(stream)
		}
	}
}

// recvError is why a message could not be sent: gRPC says it to whoever receives.
func recvError(stream grpc.BidiStreamingClient[identityv1.BundleAck, identityv1.Bundle]) error {
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
	switch {
	case !slices.Equal(message.GetSha256(), b.Hash[:]):
		return b, fmt.Errorf("its hash is %x, and its roots have %x", message.GetSha256()[:min(len(message.GetSha256()), sha256.Size)], b.Hash)
	case len(b.Roots) == 0 && problem != nil:
		return b, problem
	}
	return b, b.check()
}
