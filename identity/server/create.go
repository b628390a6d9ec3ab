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

// decision is what one request was, and became: the log's line.
type decision struct {
	from     string // address; says nothing about who
	caller   Caller
	attested bool   // caller has proved to speak for its node
	id       string // as asked for, until it is known to be well-formed
	spki     string // of the CSR's key
	leaf     *x509.Certificate
	started  time.Time
}

func newDecision(ctx context.Context) *decision {
	d := &decision{started: time.Now()}
	if p, ok := peer.FromContext(ctx); ok {
		d.from = p.Addr.String()
	}
	return d
}

// CreateCertificate answers one request of a node.
func (s *Server) CreateCertificate(ctx context.Context, request *identityv1.IstioCertificateRequest) (*identityv1.IstioCertificateResponse, error) {
	d := newDecision(ctx)
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
	release, err := s.admit(ctx, d)
	if err != nil {
		return nil, err
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
	if err := s.placed(ctx, d.caller.Node, sa); err != nil {
		return nil, err
	}
	return s.sign(ctx, request.GetCsr(), id, ttl, d)
}

// placed asks whether a pod of sa runs on the node.
func (s *Server) placed(ctx context.Context, node string, sa identity.ServiceAccount) error {
	runs, err := s.cfg.Placement.RunsOn(ctx, node, sa)
	switch {
	case runs:
		return nil
	case errors.Is(err, errAskedTooOften):
		return refusal(codes.Unavailable, identityv1.Reason_TOO_MANY_REQUESTS, "no pod of ServiceAccount %v is known on node %s: %v", sa, node, err)
	case err != nil:
		return refusal(codes.Unavailable, identityv1.Reason_API_UNAVAILABLE,
			"no pod of ServiceAccount %v is known on node %s, and the API server does not say: %v", sa, node, err)
	case !s.cfg.Placement.Synced():
		return errNotSynced
	}
	return refusal(codes.PermissionDenied, identityv1.Reason_NOT_PLACED, "metadata.%s: no pod of ServiceAccount %v that the mesh carries runs on node %s",
		identityv1.ImpersonatedIdentity, sa, node)
}

var errNotSynced = refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "the CA does not know yet what runs where")

// admit asks what does not depend on the request: is there room, who calls, may
// they speak for a node, and not too often. What it takes is taken until release.
func (s *Server) admit(ctx context.Context, d *decision) (release func(), err error) {
	select {
	case s.inFlight <- struct{}{}:
	default:
		return nil, refusal(codes.ResourceExhausted, identityv1.Reason_TOO_MANY_REQUESTS,
			"the CA is handling %d requests already; try again", maxInFlight)
	}
	admitted := false
	defer func() {
		if !admitted { // also if the Attestor panicked
			<-s.inFlight
		}
	}()
	if err := s.attest(ctx, d); err != nil {
		return nil, err
	}
	give, ok := s.limits.take(d.caller.Node)
	if !ok {
		return nil, refusal(codes.ResourceExhausted, identityv1.Reason_TOO_MANY_REQUESTS,
			"node %s asks too often; try again later", d.caller.Node)
	}
	admitted = true
	return func() { give(); <-s.inFlight }, nil
}

// attest finds out which node calls.
func (s *Server) attest(ctx context.Context, d *decision) error {
	token, err := bearer(ctx)
	if err != nil {
		return refusal(codes.Unauthenticated, identityv1.Reason_TOKEN_MALFORMED, "authorization: %v", err)
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
	d.attested = true
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(address); ok {
			a.visitor.proved(d.caller.Node)
		}
	}
	return nil
}

// notAttested is the status of an Attestor's error.
func notAttested(err error) error {
	var refused *Refused
	named := errors.As(err, &refused)
	switch {
	case errors.Is(err, ErrUnavailable) && named:
		return refusal(codes.Unavailable, refused.Reason, "authorization: %v", err)
	case errors.Is(err, ErrUnavailable):
		return refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "authorization: %v", err)
	case named && refused.Reason == identityv1.Reason_ACCOUNT_NOT_TRUSTED:
		return refusal(codes.PermissionDenied, refused.Reason, "authorization: %v", err)
	case named && refused.Reason == identityv1.Reason_TOO_MANY_REQUESTS:
		return refusal(codes.ResourceExhausted, refused.Reason, "authorization: %v", err)
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

// asked is the one identity that the request names. Other metadata would be
// wishes that we do not fulfil, so they are refused rather than ignored.
func (s *Server) asked(meta *structpb.Struct, d *decision) (spiffeid.ID, identity.ServiceAccount, error) {
	refuse := func(format string, args ...any) (spiffeid.ID, identity.ServiceAccount, error) {
		return spiffeid.ID{}, identity.ServiceAccount{}, status.Errorf(codes.InvalidArgument, "metadata."+identityv1.ImpersonatedIdentity+": "+format, args...)
	}
	for name := range meta.GetFields() {
		if name != identityv1.ImpersonatedIdentity {
			return spiffeid.ID{}, identity.ServiceAccount{}, status.Errorf(codes.InvalidArgument, "metadata.%.64q: not supported", name)
		}
	}
	value, ok := meta.GetFields()[identityv1.ImpersonatedIdentity].GetKind().(*structpb.Value_StringValue)
	if !ok {
		return refuse("want one SPIFFE ID")
	}
	if len(value.StringValue) > maxID {
		return refuse("longer than %d bytes", maxID)
	}
	d.id = value.StringValue
	id, err := spiffeid.FromString(value.StringValue)
	if err != nil {
		return refuse("%q: %v", value.StringValue, err)
	}
	sa, err := identity.Parse(id)
	if err != nil {
		return refuse("%v", err)
	}
	if td := s.cfg.CA.TrustDomain(); !id.MemberOf(td) {
		return spiffeid.ID{}, identity.ServiceAccount{}, refusal(codes.PermissionDenied, identityv1.Reason_TRUST_DOMAIN_WRONG,
			"metadata.%s: %v is not of the trust domain %v", identityv1.ImpersonatedIdentity, id, td)
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
	case errors.Is(err, ca.ErrExpired), errors.Is(err, ca.ErrNotOpen):
		return nil, cannotSign(err)
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

// record writes the decision down: one line, allowed or denied; but not each that is
// denied to strangers.
func (s *Server) record(d *decision, err error) {
	took := time.Since(d.started)
	s.metrics.answered(status.Code(err), took)
	attrs := []any{
		slog.String(logIdentity, d.id), slog.String(logNode, d.caller.Node),
		slog.String(logCaller, d.caller.ServiceAccount.String()), slog.String(logPod, d.caller.Pod), slog.String(logPodUID, d.caller.PodUID),
		slog.String(logToken, d.caller.TokenID), slog.String(logFrom, d.from), slog.String(logKeySHA256, d.spki),
	}
	if err != nil {
		s.refusals.write("certificate denied", d, err, attrs...)
		return
	}
	s.cfg.Log.Info("certificate issued", append(attrs, logSerial, d.leaf.SerialNumber.Text(16),
		logNotBefore, d.leaf.NotBefore, logNotAfter, d.leaf.NotAfter, logIssuer, hex.EncodeToString(d.leaf.AuthorityKeyId), logTook, took)...)
}
