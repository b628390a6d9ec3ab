// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
)

// maxClientChain bounds the certificates of a client that are looked at.
const maxClientChain = 4

// process is a caller outside Kubernetes. It proves itself by a join token once, and
// then by the certificate that it got for it.
type process struct {
	name    string // ID of its join.Record
	id      spiffeid.ID
	byToken bool // which is redeemed just before the CA signs

	// proof is what the deny set is asked about, at the beginning and just before the CA
	// signs: the certificate that the process has shown, and all that vouch for it.
	proof []deny.Subject
}

// String is empty for none.
func (p *process) String() string {
	if p == nil {
		return ""
	}
	return p.name
}

// holder is whose share of the CA the caller takes. No node's name has a space.
func (c Caller) holder() string {
	if c.process != nil {
		return "process " + c.process.name
	}
	return c.Node
}

// owns refuses every identity but the process's own.
func (p *process) owns(id spiffeid.ID) error {
	if id == p.id {
		return nil
	}
	return refusal(codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED,
		"identity: the process %s is %v, and may have no other", p.name, p.id)
}

// attestProcess finds out which process calls, where one may.
func (s *Server) attestProcess(ctx context.Context, d *decision, who func() (Caller, error)) (err error) {
	if s.cfg.Join == nil {
		return refusal(codes.Unauthenticated, identityv1.Reason_TOKEN_MALFORMED, "authorization: this CA takes no join tokens")
	}
	if d.caller, err = who(); err != nil {
		return notAttested(err)
	}
	if !d.processes {
		return refusal(codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED,
			"authorization: the process %s speaks for no node", d.caller.process.name)
	}
	d.proved(ctx)
	return nil
}

// byToken is the process that bears a join token which it may still redeem.
func (s *Server) byToken(ctx context.Context, text string) (Caller, error) {
	token, err := join.Parse(text)
	if err != nil {
		return Caller{}, refused(identityv1.Reason_JOIN_TOKEN_UNKNOWN, "the join token cannot be read: %v", err)
	}
	record, err := s.findToken(ctx, token.ID)
	if err == nil {
		err = record.Admit(token, time.Now())
	}
	if err != nil {
		return Caller{}, s.notJoined(err)
	}
	return caller(record, true), nil
}

// byCertificate is the process whose certificate the client of the connection has
// proved to hold. It is verified for each request, by what holds now.
func (s *Server) byCertificate(ctx context.Context, certs []*x509.Certificate) (Caller, error) {
	wrong := func(format string, args ...any) (Caller, error) {
		return Caller{}, refused(identityv1.Reason_PROCESS_CERTIFICATE_WRONG, "the client's certificate: "+format, args...)
	}
	chains, err := s.verifyClient(certs)
	if err != nil {
		return wrong("%v", err)
	}
	id, err := identity.FromCertificate(certs[0])
	if err != nil {
		return wrong("%v", err)
	}
	name := ca.ProcessOf(certs[0])
	if name == "" {
		return wrong("it is of a pod of %v: only the node of a pod renews that", id)
	}
	record, err := s.recordOf(ctx, name)
	if err != nil {
		return Caller{}, err
	}
	if !record.Redeemed || record.Identity != id {
		return wrong("it says that the process %s is %v, but that is not what it joined as", name, id)
	}
	c := caller(record, false)
	c.process.proof = proofOf(chains, id)
	if err := s.deniedProof(c.process); err != nil {
		return Caller{}, err
	}
	return c, nil
}

func caller(r join.Record, byToken bool) Caller {
	c := Caller{process: &process{name: r.ID, id: r.Identity, byToken: byToken}}
	if sa, err := identity.Parse(r.Identity); err == nil {
		c.ServiceAccount = sa
	}
	return c
}

// proofOf is the certificate by which a process would renew, and each authority that
// vouches for it. The certificate's own word for its issuer does not count: whoever holds a
// stolen issuer's key writes there what they like.
func proofOf(chains [][]*x509.Certificate, id spiffeid.ID) []deny.Subject {
	leaf := chains[0][0]
	spki := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	proof := []deny.Subject{{ID: id.String(), Serial: leaf.SerialNumber.Text(16), SPKI: hex.EncodeToString(spki[:])}}
	for _, chain := range chains {
		for _, authority := range chain[1:] {
			proof = append(proof, deny.Subject{Issuer: hex.EncodeToString(authority.SubjectKeyId)})
		}
	}
	return proof
}

// deniedProof asks the deny set about the certificate that a process has shown. About what
// it asks for, denied is asked, as for any question.
func (s *Server) deniedProof(p *process) error {
	if s.cfg.Denied == nil {
		return nil
	}
	if err := s.cfg.Denied.Unknown(); err != nil {
		return unavailable(identityv1.Reason_CA_NOT_READY, "%v", err)
	}
	if entry, is := s.matchDenied(p.proof...); is {
		return refused(identityv1.Reason_DENIED, "the client's certificate is denied: %v", entry)
	}
	return nil
}

// verifyClient asks crypto/x509, once it is bounded what that costs, and returns the chains
// that it found.
func (s *Server) verifyClient(certs []*x509.Certificate) ([][]*x509.Certificate, error) {
	if len(certs) > maxClientChain {
		return nil, fmt.Errorf("there are %d, the limit is %d", len(certs), maxClientChain)
	}
	for _, cert := range certs {
		if err := identity.CheckKey(cert); err != nil {
			return nil, err
		}
	}
	if certs[0].IsCA {
		return nil, errors.New("it is an authority's")
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, root := range s.cfg.CA.Roots() {
		opts.Roots.AddCert(root)
	}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	return certs[0].Verify(opts)
}

// clientCertificates are those of the connection, the client's own first, if it has
// some and no token: a node's token counts, whatever its connection shows.
func (s *Server) clientCertificates(ctx context.Context) []*x509.Certificate {
	if meta, _ := metadata.FromIncomingContext(ctx); s.cfg.Join == nil || len(meta.Get("authorization")) > 0 {
		return nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates
}

// redeem uses the join token up, if the caller has come with one. From here on no other
// key can; if the CA cannot sign after all, or the answer is lost, the caller's may
// come again.
func (s *Server) redeem(ctx context.Context, public crypto.PublicKey, p *process) error {
	if p == nil || !p.byToken {
		return nil
	}
	key, err := join.KeyOf(public)
	if err == nil {
		err = s.redeemRecord(ctx, p.name, key)
	}
	if err != nil {
		return notAttested(s.notJoined(err))
	}
	return nil
}

// stillJoined refuses a process that was revoked while it waited, or denied while the store
// of join tokens was asked about that.
func (s *Server) stillJoined(ctx context.Context, d *decision) error {
	if d.caller.process == nil {
		return nil
	}
	if _, err := s.recordOf(ctx, d.caller.process.name); err != nil {
		return notAttested(err)
	}
	return s.denied(d)
}

// recordOf is the record of a process that has joined.
func (s *Server) recordOf(ctx context.Context, name string) (join.Record, error) {
	record, err := s.findRecord(ctx, name)
	switch {
	case errors.Is(err, join.ErrUnknown):
		return join.Record{}, refused(identityv1.Reason_PROCESS_REVOKED, "the process %s was revoked", name)
	case err != nil:
		return join.Record{}, s.notJoined(err)
	}
	return record, nil
}

// notJoined is why a join token or its process is refused. Whether the ID or the secret
// is wrong, a stranger is not told.
func (s *Server) notJoined(err error) error {
	switch {
	case errors.Is(err, errStoreBusy):
		return err
	case errors.Is(err, join.ErrUnknown), errors.Is(err, join.ErrWrong):
		return refused(identityv1.Reason_JOIN_TOKEN_UNKNOWN, "there is no such join token")
	case errors.Is(err, join.ErrExpired):
		return refused(identityv1.Reason_JOIN_TOKEN_EXPIRED, "%v", err)
	case errors.Is(err, join.ErrRedeemed):
		return refused(identityv1.Reason_JOIN_TOKEN_REDEEMED, "%v: if it was not yours, revoke it", err)
	}
	return unavailable(identityv1.Reason_CA_NOT_READY, "join tokens in %v: %v", s.cfg.Join, err)
}
