// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/pem"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// CreateCertificate answers one request of a node or a process, in Istio's protocol.
func (s *Server) CreateCertificate(ctx context.Context, request *identityv1.IstioCertificateRequest) (*identityv1.IstioCertificateResponse, error) {
	d := newDecision(ctx)
	d.processes = true
	n, err := s.enter(ctx, d)
	if err != nil {
		s.record(d, err)
		return nil, err
	}
	defer n.leave()
	issued, err := n.issue(ctx, questionOf(request, n.process))
	if err != nil {
		return nil, err
	}
	return &identityv1.IstioCertificateResponse{CertChain: s.answer(issued)}, nil
}

// questionOf reads Istio's request. Other metadata than the identity would be wishes
// that we do not fulfil, so they are refused rather than ignored.
// A process that names no identity asks for its own.
func questionOf(request *identityv1.IstioCertificateRequest, own *process) question {
	q := question{csr: []byte(request.GetCsr()), ttl: seconds(request.GetValidityDuration())}
	fields := request.GetMetadata().GetFields()
	for name := range fields {
		// Istio's pilot-agent always names a signer, and mostly an empty one.
		if name != identityv1.ImpersonatedIdentity && !(name == "CertSigner" && fields[name].GetStringValue() == "") {
			q.wrong = refusal(codes.InvalidArgument, identityv1.Reason_ID_MALFORMED, "metadata.%.64q: not supported", name)
			return q
		}
	}
	if _, named := fields[identityv1.ImpersonatedIdentity]; own != nil && !named {
		q.id = own.id.String()
		return q
	}
	value, ok := fields[identityv1.ImpersonatedIdentity].GetKind().(*structpb.Value_StringValue)
	if !ok {
		q.wrong = refusal(codes.InvalidArgument, identityv1.Reason_ID_MALFORMED, "metadata.%s: want one SPIFFE ID", identityv1.ImpersonatedIdentity)
		return q
	}
	q.id = value.StringValue
	return q
}

// seconds is as many, or the longest time that there is.
func seconds(n int64) time.Duration {
	const most = int64(math.MaxInt64 / time.Second)
	return time.Duration(min(max(n, -most), most)) * time.Second
}

// answer is the leaf, its issuer, and last all roots in one string: the order
// that Istio's ztunnel reads.
func (s *Server) answer(issued *ca.Issued) []string {
	answer := make([]string, 0, len(issued.Above)+2)
	answer = append(answer, encode(issued.Leaf))
	for _, cert := range issued.Above {
		answer = append(answer, encode(cert.Raw))
	}
	var roots [][]byte
	for _, cert := range s.cfg.CA.Roots() {
		roots = append(roots, cert.Raw)
	}
	return append(answer, encode(roots...))
}

// encode is certificates in PEM.
func encode(certs ...[]byte) string {
	var text bytes.Buffer
	for _, cert := range certs {
		// A Buffer takes everything.
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	}
	return text.String()
}
