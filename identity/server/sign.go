// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	// batchAtOnce is how many requests of a batch are decided at a time. Most of them
	// wait for their turn to be signed anyway; those that wait for a pod to be known
	// must not keep the others.
	batchAtOnce = 16
	// batchPatience is how long a request of a batch waits for its pod to be known. The
	// node asks again for that one by itself, which is then waited for as for any.
	batchPatience = 150 * time.Millisecond
)

// Sign answers each request of a batch by itself. The node is attested once, and each
// request is one decision, with a record of its own.
func (s *Server) Sign(ctx context.Context, request *identityv1.SignRequest) (*identityv1.SignResponse, error) {
	d := newDecision(ctx)
	n, err := s.enter(ctx, d)
	if err != nil {
		s.record(d, err)
		return nil, err
	}
	defer n.leave()
	requests := request.GetRequests()
	if len(requests) == 0 || len(requests) > identityv1.MaxBatch {
		_, err := n.issue(ctx, question{wrong: status.Errorf(codes.InvalidArgument, "requests: there are %d, want 1 to %d", len(requests), identityv1.MaxBatch)})
		return nil, err
	}
	response := &identityv1.SignResponse{Results: make([]*identityv1.SigningResult, len(requests))}
	var group sync.WaitGroup
	var taken atomic.Int64
	for range min(batchAtOnce, len(requests)) { // not one for each request: their stacks grow anew
		group.Go(func() {
			for i := taken.Add(1) - 1; i < int64(len(requests)); i = taken.Add(1) - 1 {
				response.Results[i] = n.sign(ctx, requests[i], len(requests) > 1)
			}
		})
	}
	group.Wait()
	for _, root := range s.cfg.CA.Roots() { // after the signatures: none of them is by a root that is not among these
		response.Roots = append(response.Roots, root.Raw)
	}
	return response, nil
}

// sign answers one request. A panic is its failure alone.
func (n *node) sign(ctx context.Context, one *identityv1.SigningRequest, batch bool) (result *identityv1.SigningResult) {
	defer func() {
		if p := recover(); p != nil {
			result = denied(n.of.panicked(identityv1.CertificateService_Sign_FullMethodName, p))
		}
	}()
	q := question{id: one.GetId(), csr: one.GetCsr(), hasty: batch}
	if ttl := one.GetTtl(); ttl != nil {
		if err := ttl.CheckValid(); err != nil {
			q.wrong = refusal(codes.InvalidArgument, identityv1.Reason_TTL_MALFORMED, "ttl: %v", err)
		}
		q.ttl = ttl.AsDuration()
	}
	issued, err := n.issue(ctx, q)
	if err != nil {
		return denied(err)
	}
	result = &identityv1.SigningResult{RenewAfter: n.of.wish(issued.NotAfter), Chain: [][]byte{issued.Leaf}}
	for _, cert := range issued.Above {
		result.Chain = append(result.Chain, cert.Raw)
	}
	return result
}

// entitledSoon is entitled, but that a batch does not wait for the source or the API
// server to hear of a pod. The refusal tells the node to ask for this one alone.
func (s *Server) entitledSoon(ctx context.Context, q question, id spiffeid.ID, sa identity.ServiceAccount, d *decision) error {
	if !q.hasty {
		return s.entitled(ctx, id, sa, d)
	}
	soon, cancel := context.WithTimeout(ctx, batchPatience)
	defer cancel()
	err := s.entitled(soon, id, sa, d)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		return refusal(codes.Unavailable, identityv1.Reason_NOT_PLACED, "%s; a batch does not wait for that", status.Convert(err).Message())
	}
	return err
}

// wish is when a node should renew a leaf that ends at notAfter, by the CA's clock. Where
// clocks may be off the node cannot tell itself how long the leaf was meant to live;
// elsewhere there is none, since the node knows best how to spread its renewals.
func (s *Server) wish(notAfter time.Time) *durationpb.Duration {
	if s.cfg.ClockSkew == 0 {
		return nil
	}
	return durationpb.New(identity.RenewAfter(time.Until(notAfter)))
}

// denied says in a result what would be the status of a call.
func denied(err error) *identityv1.SigningResult {
	st := status.Convert(err)
	denial := &identityv1.Denial{Code: uint32(st.Code()), Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *identityv1.Refusal:
			denial.Refusal = detail
		case *errdetails.RetryInfo:
			denial.RetryAfter = durationpb.New(detail.GetRetryDelay().AsDuration())
		}
	}
	return &identityv1.SigningResult{Denial: denial}
}
