// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"cmp"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

func because(reason certs.Reason, format string, args ...any) *certs.Problem {
	return &certs.Problem{Reason: reason, Sentence: fmt.Sprintf(format, args...)}
}

// problem is what a failed call to the agent means.
func problem(socket string, err error) error {
	said := status.Convert(err).Message()
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return unanswered(socket, err)
	case codes.PermissionDenied:
		return because(certs.NotDelegate, "SPIRE's agent at %s does not let this ztunnel have the identities of its pods: %s: "+
			"its authorized_delegates must name the SPIFFE ID that a registration entry gives ztunnel", socket, said)
	case codes.Unimplemented:
		return because(certs.Refused, "there is no Delegated Identity API of SPIRE at %s: %s", socket, said)
	}
	return because(certs.Failed, "SPIRE's agent at %s: %s", socket, said)
}

func unanswered(socket string, err error) error {
	return because(certs.Unreachable, "SPIRE's agent does not answer at %s: %s", socket, status.Convert(err).Message())
}

// missing is why an answer has no SVID of the identity.
func (c *Client) missing(s *subscription, svids []*svid, unread error) error {
	if unread != nil && len(svids) == 0 {
		return because(certs.Failed, "SPIRE's agent gives no readable SVID for %v: %v", s.id, unread)
	}
	for _, other := range svids {
		named, err := identity.FromCertificate(other.chain[0])
		switch {
		case err != nil:
			unread = cmp.Or(unread, err)
		case !named.MemberOf(c.cfg.TrustDomain):
			return because(certs.TrustDomain, "SPIRE gives %v, of the trust domain %q, and this node is of %q", named, named.TrustDomain(), c.cfg.TrustDomain)
		default:
			return because(certs.NoEntry, "SPIRE gives %v for the pods of %v: its registration entry must name the latter "+
				"(spiffeIDTemplate of a ClusterSPIFFEID)", named, s.id)
		}
	}
	if unread != nil {
		return because(certs.Failed, "SPIRE's agent gives no SVID that names %v: %v", s.id, unread)
	}
	return because(certs.NoEntry, "SPIRE has no registration entry for %v that fits: its selectors must all be among %s", s.id, list(s.asked))
}

func list(selectors []selector) string {
	var all []string
	for _, s := range selectors {
		all = append(all, "k8s:"+string(s))
	}
	return strings.Join(all, ", ")
}
