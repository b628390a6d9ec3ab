// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// leeway is how far a node's or API server's clock may be off ours.
const leeway = 30 * time.Second

const (
	// KubernetesIssuer is what Kubernetes writes into tokens unless told otherwise.
	KubernetesIssuer = "https://kubernetes.default.svc.cluster.local"
	// MaxTokenLifetime is how long a node's token may be valid, unless said otherwise.
	MaxTokenLifetime = 24 * time.Hour
)

// Expected is what a node's token must say.
type Expected struct {
	Issuer   string        // iss; any, but there must be one
	Audience string        // one of aud; Audience
	Lifetime time.Duration // from iat to exp at most; MaxTokenLifetime
}

func (e Expected) withDefaults() Expected {
	e.Audience = cmp.Or(e.Audience, Audience)
	e.Lifetime = cmp.Or(e.Lifetime, MaxTokenLifetime)
	return e
}

// claims are those of a projected ServiceAccount token.
type claims struct {
	jwt.Claims
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		Node           object `json:"node"`
		Pod            object `json:"pod"`
		ServiceAccount object `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type object struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// verify returns the claims that a key of ours has signed. The algorithm is
// the key's, not the token's choice; a key in the token's header is not looked at.
func verify(token string, keys []jose.JSONWebKey) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return nil, refused(identityv1.Reason_TOKEN_MALFORMED, "parse token: %v", err)
	}
	if len(parsed.Headers) != 1 {
		return nil, refused(identityv1.Reason_TOKEN_MALFORMED, "the token has %d signatures", len(parsed.Headers))
	}
	header := parsed.Headers[0]
	known := false
	for _, key := range keys {
		if header.KeyID != "" && header.KeyID != key.KeyID || string(algorithm(key.Key)) != header.Algorithm {
			continue
		}
		known = true
		var c claims
		if err := parsed.Claims(key.Key, &c); err == nil {
			return &c, nil
		}
	}
	if !known {
		return nil, refused(identityv1.Reason_TOKEN_KEY_UNKNOWN,
			"the token is signed by the key %.64q for %s, which is not in the JWKS", header.KeyID, header.Algorithm)
	}
	return nil, refused(identityv1.Reason_TOKEN_SIGNATURE_WRONG, "the token's signature or claims are wrong")
}

// caller checks what the signature does not: when, by whom, for whom, and who.
func (c *claims) caller(expected Expected) (Caller, error) {
	if err := c.checkTimes(time.Now(), expected.Lifetime); err != nil {
		return Caller{}, err
	}
	switch {
	case c.Issuer == "":
		return Caller{}, refused(identityv1.Reason_TOKEN_ISSUER_WRONG, "the token names no issuer (iss)")
	case expected.Issuer != "" && c.Issuer != expected.Issuer:
		return Caller{}, refused(identityv1.Reason_TOKEN_ISSUER_WRONG, "the token's issuer is %.200q, want %q", c.Issuer, expected.Issuer)
	case !c.Audience.Contains(expected.Audience):
		return Caller{}, refused(identityv1.Reason_TOKEN_AUDIENCE_WRONG, "the token is for the audience %q, want %q", []string(c.Audience), expected.Audience)
	}
	return c.bound()
}

// bound is whom Kubernetes made the token for: a pod of a ServiceAccount on a node, or
// the node itself. Names are of today; so the UIDs must be there.
func (c *claims) bound() (Caller, error) {
	k := c.Kubernetes
	sa, err := identity.ParseServiceAccount(k.Namespace + "/" + k.ServiceAccount.Name)
	if err != nil {
		return Caller{}, refused(identityv1.Reason_TOKEN_MALFORMED, "kubernetes.io of the token: %v", err)
	}
	want := subjectPrefix + sa.Namespace + ":" + sa.Name
	switch {
	case c.Subject != want:
		return Caller{}, refused(identityv1.Reason_TOKEN_MALFORMED, "the token's subject is %.200q, but its kubernetes.io says %v", c.Subject, sa)
	case k.Node.Name == "":
		return Caller{}, refused(identityv1.Reason_TOKEN_NODE_MISSING,
			"kubernetes.io.node.name is missing in the token: it is not bound to a node's pod")
	case k.Node.UID == "":
		return Caller{}, refused(identityv1.Reason_TOKEN_NODE_MISSING, "kubernetes.io.node.uid is missing in the token")
	case (k.Pod.Name == "") != (k.Pod.UID == ""):
		return Caller{}, refused(identityv1.Reason_TOKEN_POD_MISSING, "kubernetes.io.pod of the token has no name, or no uid")
	}
	return Caller{
		ServiceAccount: sa,
		Node:           k.Node.Name, NodeUID: k.Node.UID,
		Pod: k.Pod.Name, PodUID: k.Pod.UID,
		TokenID: c.ID,
	}, nil
}

func (c *claims) checkTimes(now time.Time, lifetime time.Duration) error {
	switch {
	case c.Expiry == nil:
		return refused(identityv1.Reason_TOKEN_MALFORMED, "the token never expires")
	case c.IssuedAt == nil:
		return refused(identityv1.Reason_TOKEN_MALFORMED, "the token does not say when it was issued (iat)")
	case !now.Before(c.Expiry.Time().Add(leeway)):
		return refused(identityv1.Reason_TOKEN_EXPIRED, "the token expired on %v", stamp(c.Expiry))
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return refused(identityv1.Reason_TOKEN_NOT_YET_VALID, "the token is not valid before %v; the clock says %v", stamp(c.NotBefore), now.UTC().Format(time.RFC3339))
	case now.Add(leeway).Before(c.IssuedAt.Time()):
		return refused(identityv1.Reason_TOKEN_NOT_YET_VALID, "the token was issued in the future, on %v", stamp(c.IssuedAt))
	case c.Expiry.Time().After(c.IssuedAt.Time().Add(lifetime)):
		return refused(identityv1.Reason_TOKEN_LIVES_TOO_LONG, "the token is valid from %v to %v, longer than %v", stamp(c.IssuedAt), stamp(c.Expiry), lifetime)
	}
	return nil
}

func stamp(d *jwt.NumericDate) string { return d.Time().UTC().Format(time.RFC3339) }
