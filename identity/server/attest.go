// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// ErrUnavailable is wrapped by an Attestor that cannot tell at the moment, so
// that the caller should try again rather than look for another token.
var ErrUnavailable = errors.New("tokens cannot be verified")

// Caller is who a token proves the caller to be.
type Caller struct {
	ServiceAccount identity.ServiceAccount
	Node, NodeUID  string // where its pod runs
	Pod, PodUID    string
	TokenID        string // for the log

	process *process // outside Kubernetes: it speaks for itself alone, and for no node
}

// Attestor tells who calls by the bearer token that came with the request. Its
// error wraps ErrUnavailable, a *Refused, or both; what it returns beside is for the log.
type Attestor interface {
	Attest(ctx context.Context, token string) (Caller, error)
}

// Refused is what is wrong with a token: a sentence for people, and a word for
// the node's metrics.
type Refused struct {
	Reason   identityv1.Reason
	Sentence string
}

func (r *Refused) Error() string { return r.Sentence }

func refused(reason identityv1.Reason, format string, args ...any) error {
	return &Refused{Reason: reason, Sentence: fmt.Sprintf(format, args...)}
}

// unavailable is a refusal for the moment only.
func unavailable(reason identityv1.Reason, format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, refused(reason, format, args...))
}

// refusal is a status that bears the word for it as a detail.
func refusal(code codes.Code, reason identityv1.Reason, format string, args ...any) error {
	return detailed(status.Newf(code, format, args...), &identityv1.Refusal{Reason: reason})
}

// busyFor is when to come again to a CA that has no room.
const busyFor = time.Second

// later is a refusal for some time, which the status bears as a google.rpc.RetryInfo.
func later(code codes.Code, wait time.Duration, reason identityv1.Reason, format string, args ...any) error {
	return detailed(status.Newf(code, format, args...),
		&identityv1.Refusal{Reason: reason}, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
}

func detailed(st *status.Status, details ...protoadapt.MessageV1) error {
	if with, err := st.WithDetails(details...); err == nil {
		st = with
	}
	return st.Err()
}
