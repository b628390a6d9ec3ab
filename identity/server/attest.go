// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	st := status.Newf(code, format, args...)
	if detailed, err := st.WithDetails(&identityv1.Refusal{Reason: reason}); err == nil {
		st = detailed
	}
	return st.Err()
}
