// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"context"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// Check asks whether the agent would give this node its pods' identities now: it must know
// who this ztunnel is, be of the node's trust domain, and name it a delegate. Its error is
// a *certs.Problem.
func (c *Client) Check(ctx context.Context) (certs.Answer, error) {
	own, err := c.own(ctx)
	if err != nil {
		return certs.Answer{}, err
	}
	answer := certs.Answer{TrustDomain: own.TrustDomain().Name()}
	if !own.MemberOf(c.cfg.TrustDomain) {
		return answer, nil // whoever asks compares it, and names both
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	stream, err := c.agent.SubscribeToX509Bundles(ctx, &delegatedv1.SubscribeToX509BundlesRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		refused := problem(c.cfg.AdminSocket, err).(*certs.Problem)
		if refused.Reason == certs.NotDelegate {
			refused.Sentence += ", " + own.String()
		}
		return certs.Answer{}, refused
	}
	return answer, nil
}

// own is the identity of this ztunnel.
func (c *Client) own(ctx context.Context) (spiffeid.ID, error) {
	svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+c.cfg.WorkloadSocket))
	switch status.Code(err) {
	case codes.OK:
		return svid.ID, nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return spiffeid.ID{}, unanswered(c.cfg.WorkloadSocket, err)
	case codes.PermissionDenied:
		return spiffeid.ID{}, because(certs.NotDelegate, "SPIRE's agent at %s gives this ztunnel no identity: %s: "+
			"it needs a registration entry, as by k8s:sa:ztunnel, whose SPIFFE ID authorized_delegates names", c.cfg.WorkloadSocket, status.Convert(err).Message())
	}
	return spiffeid.ID{}, because(certs.Failed, "SPIRE's agent at %s: %v", c.cfg.WorkloadSocket, err)
}
