// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// maxID is of the SPIFFE ID standard, 2.3.
const maxID = 2048

// question is one identity that a node asks for.
type question struct {
	id    string        // SPIFFE ID
	csr   []byte        // PEM or DER
	ttl   time.Duration // wanted; 0: what the CA gives
	hasty bool          // one of a batch: what takes long is left to a question of its own
	wrong error         // what else is wished for, and not given; a gRPC status; none
}

// issue answers one question of a node that has entered, and writes the decision
// down. An error is a gRPC status.
func (n *node) issue(ctx context.Context, q question) (*ca.Issued, error) {
	d := n.decision()
	issued, err := n.of.decide(ctx, q, d)
	n.of.record(d, err)
	return issued, err
}

// decide asks who may have which identity. Every way to a certificate leads through
// here, and each question has a Reason of its own for no:
//
//	who calls, and is the token its live pod's      enter, before
//	does the node ask too often                     spend
//	which identity, and is it one of ours           asked
//	which key, and does the sender hold it          possessed
//	is any of these denied, or what proves them     denied
//	does it run on the node, in the mesh            placed; of a process: owns
//	is its ServiceAccount still there               account
//	for how long                                    lifetime
//	is that identity asked for too often            spendIdentity
//	is a join token redeemed by another key         redeem
//	was any of these denied meanwhile               denied, again
//	was the process revoked or denied meanwhile     stillJoined
func (s *Server) decide(ctx context.Context, q question, d *decision) (*ca.Issued, error) {
	release, err := s.spend(d.caller.holder())
	if err != nil {
		return nil, err
	}
	defer release()
	id, sa, err := s.asked(q, d)
	if err != nil {
		return nil, err
	}
	key, err := possessed(q.csr, d)
	if err != nil {
		return nil, err
	}
	if err := s.denied(d); err != nil {
		return nil, err
	}
	if err := s.entitledSoon(ctx, q, id, sa, d); err != nil {
		return nil, err
	}
	if err := s.account(ctx, sa, d); err != nil {
		return nil, err
	}
	ttl, err := s.lifetime(sa, q.ttl, d)
	if err != nil {
		return nil, err
	}
	renewal, err := s.spendIdentity(sa, ttl, d)
	if err != nil {
		return nil, err
	}
	return s.sign(ctx, key, id, ttl, renewal, d)
}

// spend takes one question of the share of a node or process, until release.
func (s *Server) spend(holder string) (release func(), err error) {
	release, wait, ok := s.limits.take(holder)
	if !ok {
		return nil, later(codes.ResourceExhausted, wait, identityv1.Reason_TOO_MANY_REQUESTS, "%s asks too often; try again later", holder)
	}
	return release, nil
}

// asked is the one identity that the question names: of the CA's trust domain, and of
// a ServiceAccount.
func (s *Server) asked(q question, d *decision) (spiffeid.ID, identity.ServiceAccount, error) {
	refuse := func(format string, args ...any) (spiffeid.ID, identity.ServiceAccount, error) {
		return spiffeid.ID{}, identity.ServiceAccount{}, refusal(codes.InvalidArgument, identityv1.Reason_ID_MALFORMED, "identity: "+format, args...)
	}
	if q.wrong != nil {
		return spiffeid.ID{}, identity.ServiceAccount{}, q.wrong
	}
	if len(q.id) > maxID {
		return refuse("longer than %d bytes", maxID)
	}
	d.id = q.id
	id, err := spiffeid.FromString(q.id)
	if err != nil {
		return refuse("%q: %v", q.id, err)
	}
	sa, err := identity.Parse(id)
	if err != nil {
		return refuse("%v", err)
	}
	if td := s.cfg.CA.TrustDomain(); !id.MemberOf(td) {
		return spiffeid.ID{}, identity.ServiceAccount{}, refusal(codes.PermissionDenied, identityv1.Reason_TRUST_DOMAIN_WRONG,
			"identity: %v is not of the trust domain %v", id, td)
	}
	return id, sa, nil
}

// possessed is the key of the CSR, if it is one that we certify and the sender holds it.
// Nothing else is taken from a CSR.
func possessed(csr []byte, d *decision) (crypto.PublicKey, error) {
	key, err := ca.ParseCSR(csr)
	switch {
	case errors.Is(err, ca.ErrKeyNotAllowed):
		return nil, refusal(codes.InvalidArgument, identityv1.Reason_KEY_NOT_ALLOWED, "csr: %v", err)
	case errors.Is(err, ca.ErrKeyNotProved):
		return nil, refusal(codes.InvalidArgument, identityv1.Reason_KEY_NOT_PROVED, "csr: %v", err)
	case err != nil:
		return nil, refusal(codes.InvalidArgument, identityv1.Reason_CSR_MALFORMED, "csr: %v", err)
	}
	der, err := ca.EncodeKey(key)
	if err != nil {
		return nil, refusal(codes.InvalidArgument, identityv1.Reason_CSR_MALFORMED, "csr: %v", err)
	}
	sum := sha256.Sum256(der)
	d.spki = hex.EncodeToString(sum[:])
	return key, nil
}

// entitled asks whether the caller may have the identity.
func (s *Server) entitled(ctx context.Context, id spiffeid.ID, sa identity.ServiceAccount, d *decision) error {
	if p := d.caller.process; p != nil {
		return p.owns(id)
	}
	return s.placed(ctx, sa, d)
}

// placed asks whether a pod of sa runs on the node, in the mesh.
func (s *Server) placed(ctx context.Context, sa identity.ServiceAccount, d *decision) error {
	node := d.caller.Node
	pods, err := s.cfg.Placement.RunsOn(ctx, node, sa)
	if err == nil && len(pods) == 0 && !s.cfg.Placement.Synced() {
		return errNotSynced
	}
	var outside string
	for _, pod := range pods {
		if pod.Outside == "" {
			d.pods = append(d.pods, pod.UID)
			d.dnsNames = append(d.dnsNames, pod.DNSNames...)
		}
		outside = pod.Outside
	}
	switch {
	case len(d.pods) > 0:
		d.dnsNames = s.leafNames(sa, d.dnsNames)
		return nil
	case errors.Is(err, errAskedTooOften):
		return later(codes.Unavailable, time.Second, identityv1.Reason_TOO_MANY_REQUESTS, "no pod of ServiceAccount %v is known on node %s: %v", sa, node, err)
	case err != nil:
		return refusal(codes.Unavailable, identityv1.Reason_API_UNAVAILABLE,
			"no pod of ServiceAccount %v is known on node %s, and the API server does not say: %v", sa, node, err)
	case outside != "":
		return refusal(codes.PermissionDenied, identityv1.Reason_NOT_ENROLLED,
			"identity: the mesh carries no pod of ServiceAccount %v on node %s: %s", sa, node, outside)
	}
	return refusal(codes.PermissionDenied, identityv1.Reason_NOT_PLACED,
		"identity: no pod of ServiceAccount %v that the mesh carries runs on node %s", sa, node)
}

// leafNames are the DNS names that a leaf of sa gets, of those of its pods: none by which
// nodes know the CA itself, none that is not its namespace's, and no more than a certificate
// may have. Names of Services come first, since fewer clients ask for a pod.
func (s *Server) leafNames(sa identity.ServiceAccount, names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(s.cfg.DNSNames, name) || !sa.OwnDNSName(name) })
	slices.Sort(names)
	var ofServices, ofPods []string
	for _, name := range slices.Compact(names) {
		if strings.HasSuffix(name, identity.PodSuffix) {
			ofPods = append(ofPods, name)
		} else {
			ofServices = append(ofServices, name)
		}
	}
	return identity.FitDNSNames(append(ofServices, ofPods...))
}

var errNotSynced = refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "the CA does not know yet what runs where")

// account asks whether the ServiceAccount is still there: a pod may outlive it. Which
// one of that name it was goes into the record.
func (s *Server) account(ctx context.Context, sa identity.ServiceAccount, d *decision) error {
	if d.caller.process != nil {
		return nil
	}
	account, there := s.cfg.Accounts.find(sa)
	if !there && s.cfg.Accounts.Ask != nil {
		release, wait, ok := s.cfg.Placement.asks.take(d.caller.Node)
		if !ok {
			return later(codes.Unavailable, wait, identityv1.Reason_TOO_MANY_REQUESTS, "ServiceAccount %v is not known: %v", sa, errAskedTooOften)
		}
		defer release()
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		defer cancel()
		var err error
		switch account, there, err = s.cfg.Accounts.Ask(ctx, sa); {
		case err != nil:
			return refusal(codes.Unavailable, identityv1.Reason_API_UNAVAILABLE, "ServiceAccount %v is not known, and the API server does not say: %v", sa, err)
		case !there:
			return refusal(codes.PermissionDenied, identityv1.Reason_ACCOUNT_GONE, "identity: there is no ServiceAccount %v any more", sa)
		}
	}
	d.account = account.UID
	return nil
}

// lifetime is what was asked for, but never more than the ServiceAccount, its Namespace,
// the mesh or, if none of these says anything, the CA gives.
func (s *Server) lifetime(sa identity.ServiceAccount, wanted time.Duration, d *decision) (time.Duration, error) {
	if wanted < 0 {
		return 0, refusal(codes.InvalidArgument, identityv1.Reason_TTL_MALFORMED, "lifetime: %v is negative", wanted)
	}
	given, by := s.cfg.Accounts.lifetime(sa)
	if given == 0 {
		given, by = s.cfg.TTL, "CA"
	}
	if wanted > 0 && wanted < given {
		given, by = max(wanted, ca.MinTTL), "request"
	}
	d.wanted, d.lifetimeBy = wanted, by
	return given, nil
}

// spendIdentity takes one certificate of the node's share of that identity. It reports
// whether the node renews one.
func (s *Server) spendIdentity(sa identity.ServiceAccount, ttl time.Duration, d *decision) (renewal bool, err error) {
	renewal, wait, ok := s.often.take(place{d.caller.holder(), sa}, d.pods, ttl)
	if !ok {
		return renewal, later(codes.ResourceExhausted, wait, identityv1.Reason_IDENTITY_TOO_OFTEN,
			"%s asks for %v too often; try again later", d.caller.holder(), sa)
	}
	return renewal, nil
}

func (s *Server) sign(ctx context.Context, key crypto.PublicKey, id spiffeid.ID, ttl time.Duration, renewal bool, d *decision) (*ca.Issued, error) {
	// The store is asked outside the gate: one that hangs must keep nobody else from signing.
	if err := s.redeem(ctx, key, d.caller.process); err != nil {
		return nil, err
	}
	issued, err := s.signInTurn(ctx, key, id, ttl, renewal, d)
	if err != nil {
		return nil, err
	}
	if err := s.stillJoined(ctx, d); err != nil {
		return nil, err
	}
	d.issued = issued
	return issued, nil
}

// signInTurn waits for a place to sign. What was denied meanwhile is not signed.
func (s *Server) signInTurn(ctx context.Context, key crypto.PublicKey, id spiffeid.ID, ttl time.Duration, renewal bool, d *decision) (*ca.Issued, error) {
	places := s.signing
	if s.cfg.CA.Signer() != nil {
		places = s.awaiting
	}
	if err := places.enter(ctx, renewal); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	defer places.leave()
	if err := s.denied(d); err != nil {
		return nil, err
	}
	issued, err := s.cfg.CA.Issue(key, id, d.caller.process.String(), ttl, d.dnsNames...)
	switch {
	case errors.Is(err, ca.ErrExpired), errors.Is(err, ca.ErrNotOpen), errors.Is(err, signing.ErrAway), errors.Is(err, signing.ErrOtherKey):
		return nil, cannotSign(err)
	case err != nil:
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	return &issued, nil
}
