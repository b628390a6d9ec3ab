// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"

	"github.com/culvert-mesh/culvert/identity"
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

// Attestor tells who calls by the bearer token that came with the request.
type Attestor interface {
	Attest(ctx context.Context, token string) (Caller, error)
}
