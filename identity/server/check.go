// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Check answers whether CreateCertificate would sign for the caller's node, and
// tells what the node cannot know by itself: the CA's trust domain, and which
// node the token speaks for. A node that is started with other values compares.
func (s *Server) Check(ctx context.Context, _ *identityv1.CheckRequest) (*identityv1.CheckResponse, error) {
	d := newDecision(ctx)
	err := s.check(ctx, d)
	s.recordCheck(d, err)
	if err != nil {
		return nil, err
	}
	return &identityv1.CheckResponse{TrustDomain: s.cfg.CA.TrustDomain().Name(), Node: d.caller.Node}, nil
}

// check asks all that CreateCertificate asks but for which pod.
func (s *Server) check(ctx context.Context, d *decision) error {
	n, err := s.enter(ctx, d)
	if err != nil {
		return err
	}
	defer n.leave()
	release, err := s.spend(n.holder())
	if err != nil {
		return err
	}
	defer release()
	if err := s.denied(d); err != nil {
		return err
	}
	if !s.cfg.Placement.Synced() {
		return errNotSynced
	}
	if err := s.unable(); err != nil {
		return cannotSign(err)
	}
	return nil
}

// recordCheck writes a line only for a refusal: nodes ask again and again.
func (s *Server) recordCheck(d *decision, err error) {
	s.metrics.checks.WithLabelValues(status.Code(err).String()).Inc()
	s.visits.note(d, err)
	if err != nil {
		s.refusals.write("node refused", d, err, d.asker()...)
	}
}
