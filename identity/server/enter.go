// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
)

// maxToken bounds what is looked at.
const maxToken = 32 << 10

// node is a caller that has proved to speak for a node, or, where one may ask, to be a
// process outside Kubernetes, for one call. It may ask for
// one identity after the other, or for several at once.
type node struct {
	Caller
	of    *Server
	from  string        // address; says nothing about who
	took  time.Duration // to prove it
	leave func()        // gives its place back; to be called once
}

// decision begins one about the node.
func (n *node) decision() *decision {
	return &decision{from: n.from, caller: n.Caller, attested: true, started: time.Now().Add(-n.took)}
}

// enter asks what does not depend on the identity: is there room, who calls, and may
// they speak for a node, or for a process if d says that one may ask. It fills in what is known of the caller, also of one that is
// refused. An error is a gRPC status.
func (s *Server) enter(ctx context.Context, d *decision) (*node, error) {
	select {
	case s.inFlight <- struct{}{}:
	default:
		return nil, later(codes.ResourceExhausted, s.herd.turn(time.Now()), identityv1.Reason_TOO_MANY_REQUESTS, "the CA is handling %d requests already; try again", maxInFlight)
	}
	entered := false
	defer func() {
		if !entered { // also if the Attestor panicked
			<-s.inFlight
		}
	}()
	if err := s.attest(ctx, d); err != nil {
		return nil, err
	}
	entered = true
	return &node{Caller: d.caller, of: s, from: d.from, took: time.Since(d.started), leave: func() { <-s.inFlight }}, nil
}

// attest finds out which node or process calls.
func (s *Server) attest(ctx context.Context, d *decision) error {
	if certs := s.clientCertificates(ctx); certs != nil {
		return s.attestProcess(ctx, d, func() (Caller, error) { return s.byCertificate(ctx, certs) })
	}
	token, err := bearer(ctx)
	if err != nil {
		return refusal(codes.Unauthenticated, identityv1.Reason_TOKEN_MALFORMED, "authorization: %v", err)
	}
	if join.IsToken(token) {
		return s.attestProcess(ctx, d, func() (Caller, error) { return s.byToken(ctx, token) })
	}
	d.caller, err = s.cfg.Attestor.Attest(ctx, token)
	switch {
	case err != nil:
		return notAttested(err)
	case d.caller.Node == "":
		return refusal(codes.Unauthenticated, identityv1.Reason_TOKEN_NODE_MISSING, "authorization: the token names no node")
	case !slices.Contains(s.cfg.NodeAccounts, d.caller.ServiceAccount):
		return refusal(codes.PermissionDenied, identityv1.Reason_ACCOUNT_NOT_TRUSTED,
			"authorization: ServiceAccount %v does not speak for nodes", d.caller.ServiceAccount)
	}
	d.proved(ctx)
	return nil
}

// proved takes it that the connection is the caller's.
func (d *decision) proved(ctx context.Context) {
	d.attested = true
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(address); ok {
			a.visitor.proved(d.caller.holder())
		}
	}
}

// notAttested is the status of an Attestor's error.
func notAttested(err error) error {
	var refused *Refused
	named := errors.As(err, &refused)
	switch {
	case errors.Is(err, errStoreBusy):
		return later(codes.Unavailable, busyFor, identityv1.Reason_CA_NOT_READY, "authorization: %v", err)
	case errors.Is(err, ErrUnavailable) && named:
		return refusal(codes.Unavailable, refused.Reason, "authorization: %v", err)
	case errors.Is(err, ErrUnavailable):
		return refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "authorization: %v", err)
	case named && refused.Reason == identityv1.Reason_ACCOUNT_NOT_TRUSTED:
		return refusal(codes.PermissionDenied, refused.Reason, "authorization: %v", err)
	case named && refused.Reason == identityv1.Reason_TOO_MANY_REQUESTS:
		return later(codes.ResourceExhausted, busyFor, refused.Reason, "authorization: %v", err)
	case named:
		return refusal(codes.Unauthenticated, refused.Reason, "authorization: %v", err)
	}
	return status.Errorf(codes.Unauthenticated, "authorization: %v", err)
}

func bearer(ctx context.Context) (string, error) {
	meta, _ := metadata.FromIncomingContext(ctx)
	values := meta.Get("authorization")
	if len(values) != 1 {
		return "", errors.New("want one bearer token")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("want a bearer token")
	}
	if len(token) > maxToken {
		return "", errors.New("the token is too long")
	}
	return token, nil
}
