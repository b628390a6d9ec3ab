// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Bounds on what is looked at.
const (
	maxToken = 32 << 10
	maxID    = 2048 // SPIFFE ID standard, 2.3
)

const logError = "error"

// decision is what one request was, and became: the log's line.
type decision struct {
	from    string // address; says nothing about who
	caller  Caller
	id      string // as asked for, until it is known to be well-formed
	spki    string // of the CSR's key
	leaf    *x509.Certificate
	started time.Time
}

// CreateCertificate answers one request of a node.
func (s *Server) CreateCertificate(ctx context.Context, request *identityv1.IstioCertificateRequest) (*identityv1.IstioCertificateResponse, error) {
	d := &decision{started: time.Now()}
	if p, ok := peer.FromContext(ctx); ok {
		d.from = p.Addr.String()
	}
	chain, err := s.decide(ctx, request, d)
	s.record(d, err)
	if err != nil {
		return nil, err
	}
	return &identityv1.IstioCertificateResponse{CertChain: s.answer(chain)}, nil
}

// decide asks, in this order: is there room, who calls, may they speak for a
// node, not too often, for whom do they ask, does that run on their node, and
// do they hold the key. All errors are gRPC statuses.
func (s *Server) decide(ctx context.Context, request *identityv1.IstioCertificateRequest, d *decision) ([]*x509.Certificate, error) {
	select {
	case s.inFlight <- struct{}{}:
		defer func() { <-s.inFlight }()
	default:
		return nil, status.Errorf(codes.ResourceExhausted, "the CA is handling %d requests already; try again", maxInFlight)
	}
	if err := s.attest(ctx, d); err != nil {
		return nil, err
	}
	release, ok := s.limits.take(d.caller.Node, time.Now())
	if !ok {
		return nil, status.Errorf(codes.ResourceExhausted, "node %s asks too often; try again later", d.caller.Node)
	}
	defer release()
	id, sa, err := s.asked(request.GetMetadata(), d)
	if err != nil {
		return nil, err
	}
	ttl, err := s.ttl(request.GetValidityDuration())
	if err != nil {
		return nil, err
	}
	if err := checkCSR(request.GetCsr(), d); err != nil {
		return nil, err
	}
	if !s.cfg.Placement.RunsOn(ctx, d.caller.Node, sa) {
		if !s.cfg.Placement.Synced() {
			return nil, status.Error(codes.Unavailable, "the CA does not know yet what runs where")
		}
		return nil, status.Errorf(codes.PermissionDenied, "metadata.%s: no pod of ServiceAccount %v that the mesh carries runs on node %s",
			identityv1.ImpersonatedIdentity, sa, d.caller.Node)
	}
	return s.sign(ctx, request.GetCsr(), id, ttl, d)
}

// attest finds out which node calls.
func (s *Server) attest(ctx context.Context, d *decision) error {
	token, err := bearer(ctx)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "authorization: %v", err)
	}
	d.caller, err = s.cfg.Attestor.Attest(ctx, token)
	switch {
	case errors.Is(err, ErrUnavailable):
		return status.Errorf(codes.Unavailable, "authorization: %v", err)
	case err != nil:
		return status.Errorf(codes.Unauthenticated, "authorization: %v", err)
	case d.caller.Node == "":
		return status.Error(codes.Unauthenticated, "authorization: the token names no node")
	case !slices.Contains(s.cfg.NodeAccounts, d.caller.ServiceAccount):
		return status.Errorf(codes.PermissionDenied, "authorization: ServiceAccount %v does not speak for nodes", d.caller.ServiceAccount)
	}
	return nil
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

// asked is the one identity that the request names. Other metadata would be
// wishes that we do not fulfil, so they are refused rather than ignored.
func (s *Server) asked(meta *structpb.Struct, d *decision) (spiffeid.ID, identity.ServiceAccount, error) {
	refuse := func(code codes.Code, format string, args ...any) (spiffeid.ID, identity.ServiceAccount, error) {
		return spiffeid.ID{}, identity.ServiceAccount{}, status.Errorf(code, "metadata."+identityv1.ImpersonatedIdentity+": "+format, args...)
	}
	for name := range meta.GetFields() {
		if name != identityv1.ImpersonatedIdentity {
			return spiffeid.ID{}, identity.ServiceAccount{}, status.Errorf(codes.InvalidArgument, "metadata.%.64q: not supported", name)
		}
	}
	value, ok := meta.GetFields()[identityv1.ImpersonatedIdentity].GetKind().(*structpb.Value_StringValue)
	if !ok {
		return refuse(codes.InvalidArgument, "want one SPIFFE ID")
	}
	if len(value.StringValue) > maxID {
		return refuse(codes.InvalidArgument, "longer than %d bytes", maxID)
	}
	d.id = value.StringValue
	id, err := spiffeid.FromString(value.StringValue)
	if err != nil {
		return refuse(codes.InvalidArgument, "%q: %v", value.StringValue, err)
	}
	sa, err := identity.Parse(id)
	if err != nil {
		return refuse(codes.InvalidArgument, "%v", err)
	}
	if td := s.cfg.CA.TrustDomain(); !id.MemberOf(td) {
		return refuse(codes.PermissionDenied, "%v is not of the trust domain %v", id, td)
	}
	return id, sa, nil
}

// ttl is what was asked for, but never more than we give.
func (s *Server) ttl(seconds int64) (time.Duration, error) {
	limit := int64(s.cfg.TTL / time.Second)
	switch {
	case seconds < 0:
		return 0, status.Errorf(codes.InvalidArgument, "validity_duration: %d is negative", seconds)
	case seconds == 0 || seconds > limit: // compared before it can overflow
		return s.cfg.TTL, nil
	}
	return time.Duration(seconds) * time.Second, nil
}

func checkCSR(csr string, d *decision) error {
	key, err := ca.ParseCSR([]byte(csr))
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "csr: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "csr: %v", err)
	}
	sum := sha256.Sum256(der)
	d.spki = hex.EncodeToString(sum[:])
	return nil
}

func (s *Server) sign(ctx context.Context, csr string, id spiffeid.ID, ttl time.Duration, d *decision) ([]*x509.Certificate, error) {
	select {
	case s.signing <- struct{}{}:
		defer func() { <-s.signing }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	chain, err := s.cfg.CA.Sign([]byte(csr), id, ttl)
	switch {
	case errors.Is(err, ca.ErrExpired):
		return nil, status.Errorf(codes.FailedPrecondition, "%v", err)
	case err != nil:
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	d.leaf = chain[0]
	return chain, nil
}

// answer is the leaf, its issuer, and last all roots in one string: the order
// that Istio's ztunnel reads.
func (s *Server) answer(chain []*x509.Certificate) []string {
	answer := make([]string, 0, len(chain)+1)
	for _, cert := range chain {
		answer = append(answer, encode(cert))
	}
	return append(answer, encode(s.cfg.CA.Roots()...))
}

func encode(certs ...*x509.Certificate) string {
	var text bytes.Buffer
	for _, cert := range certs {
		// A Buffer takes everything.
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return text.String()
}

// record writes the decision down: one line, allowed or denied.
func (s *Server) record(d *decision, err error) {
	took := time.Since(d.started)
	s.metrics.answered(status.Code(err), took)
	attrs := []any{
		slog.String("identity", d.id), slog.String("node", d.caller.Node),
		slog.String("caller", d.caller.ServiceAccount.String()), slog.String("pod", d.caller.Pod), slog.String("pod_uid", d.caller.PodUID),
		slog.String("token", d.caller.TokenID), slog.String("from", d.from), slog.String("key_sha256", d.spki),
	}
	if err != nil {
		s.cfg.Log.Warn("certificate denied", append(attrs, "code", status.Code(err).String(), "reason", status.Convert(err).Message(), "took", took)...)
		return
	}
	s.cfg.Log.Info("certificate issued", append(attrs, "serial", d.leaf.SerialNumber.Text(16),
		"not_before", d.leaf.NotBefore, "not_after", d.leaf.NotAfter, "issuer", hex.EncodeToString(d.leaf.AuthorityKeyId), "took", took)...)
}
