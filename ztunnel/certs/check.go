// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Answer is what a CA that would sign says about the caller. What it does not
// say is empty.
type Answer struct {
	TrustDomain string // of the identities that it gives
	Node        string // that the token names
}

// Check asks whether the CA would sign for this node now, by the files as they
// are now. Its error is a *Problem. It does not wait for a CA that was away
// when it was last tried: whoever asks, asks again.
func (c *Client) Check(ctx context.Context) (Answer, error) {
	if _, err := c.cfg.roots(); err != nil {
		return Answer{}, err
	}
	ctx, err := c.authorize(ctx)
	if err != nil {
		return Answer{}, err
	}
	answer, err := ask(ctx, c, func(ctx context.Context, r *replica) (*identityv1.CheckResponse, error) {
		return r.node.Check(ctx, &identityv1.CheckRequest{})
	})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return c.try(ctx)
	case err != nil:
		return Answer{}, c.problem(err)
	}
	return Answer{TrustDomain: answer.GetTrustDomain(), Node: answer.GetNode()}, nil
}

// try asks a CA that has no Check, as istiod, for a certificate of the caller's
// own identity, by a key that is thrown away. That is the only question by
// which istiod tells a token that it takes from one that it does not: for
// another identity, it has one sentence and one code for both. Once it was asked,
// what it has signed for a pod since is as good an answer.
func (c *Client) try(ctx context.Context) (Answer, error) {
	if last := c.tried.Load(); last != nil && c.issued.Swap(false) {
		return *last, nil
	}
	csr, err := throwawayCSR()
	if err != nil {
		return Answer{}, problem(Failed, "make a CSR: %v", err)
	}
	response, err := c.create(ctx, &identityv1.IstioCertificateRequest{Csr: csr})
	switch status.Code(err) {
	case codes.OK:
		answer := Answer{TrustDomain: domainOf(response.GetCertChain())}
		c.tried.Store(&answer)
		return answer, nil
	case codes.PermissionDenied, codes.InvalidArgument: // it knows who asks, and does not give that
		c.tried.Store(&Answer{})
		return Answer{}, nil
	case codes.Unauthenticated:
		return Answer{}, problem(Refused, "the CA at %s refuses the token in %s: %s", c.cfg.Address, c.cfg.TokenFile, status.Convert(err).Message())
	}
	return Answer{}, c.problem(err)
}

func throwawayCSR() (string, error) {
	key, err := newPrivateKey(identity.P256)
	if err != nil {
		return "", err
	}
	defer key.forget()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// domainOf is the trust domain of a leaf, or "" if it names none.
func domainOf(chain []string) string {
	issued, err := parseIssued(chain)
	if err != nil {
		return ""
	}
	id, err := identity.FromCertificate(issued.Chain[0])
	if err != nil {
		return ""
	}
	return id.TrustDomain().Name()
}
