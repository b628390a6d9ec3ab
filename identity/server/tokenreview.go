// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Kubernetes puts what a token is bound to into the extras of its user, since 1.30
// the node, too.
const (
	extraPodName      = "authentication.kubernetes.io/pod-name"
	extraPodUID       = "authentication.kubernetes.io/pod-uid"
	extraNodeName     = "authentication.kubernetes.io/node-name"
	extraNodeUID      = "authentication.kubernetes.io/node-uid"
	extraCredentialID = "authentication.kubernetes.io/credential-id"
	subjectPrefix     = "system:serviceaccount:"
)

const (
	// reviewWithin is how long the API server may take to answer.
	reviewWithin = 3 * time.Second
	// awayFor is how long it is taken to be away when it did not.
	awayFor = 2 * time.Second
)

// kubernetesAlgorithms are those by which an API server or its external signer may
// sign tokens.
var kubernetesAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
}

// TokenReview is the Attestor for tokens that Kubernetes projects into pods: it asks
// the API server about each, and compares the answer with the pod as it is now.
//
//	asking.go  who may have the API server asked, and how often
//	proofs.go  what it said a moment ago
type TokenReview struct {
	options   TokenReviewOptions
	reviews   rest.Interface
	asking    *asking
	proofs    *proofs
	asked     *reviews
	awayUntil atomic.Int64 // Unix time in nanoseconds
}

// TokenReviewOptions says whose tokens prove what.
type TokenReviewOptions struct {
	Placement    *Placement                // knows the pods that speak for nodes; required
	NodeAccounts []identity.ServiceAccount // about whose tokens the API server is asked; required
	Expected     Expected                  // what a token must say; its defaults
}

// NewTokenReview returns one that asks the API server of config.
func NewTokenReview(config *rest.Config, o TokenReviewOptions) (*TokenReview, error) {
	o.Expected = o.Expected.withDefaults()
	scheme := runtime.NewScheme()
	if err := authenticationv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &authenticationv1.SchemeGroupVersion
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", config.Host, err)
	}
	return &TokenReview{options: o, reviews: client, asking: newAsking(), proofs: newProofs(), asked: newReviews()}, nil
}

// Attest asks, in this order: is the token worth a question, was it asked a moment
// ago, does Kubernetes vouch for it, and is the pod that it is bound to still what it
// says.
func (r *TokenReview) Attest(ctx context.Context, token string) (Caller, error) {
	claimed, expires, err := r.plausible(token)
	if err != nil {
		return Caller{}, err
	}
	hash := sha256.Sum256([]byte(token))
	if caller, ok := r.remembered(claimed, hash, r.patience()); ok {
		return caller, nil
	}
	agent, _ := r.options.Placement.agent(claimed.PodUID)
	end, err := r.asking.take(ctx, originOf(ctx, agent.Addrs))
	if err != nil {
		return Caller{}, err
	}
	defer func() { end(err != nil && !errors.Is(err, ErrUnavailable)) }()
	if caller, ok := r.remembered(claimed, hash, proofFresh); ok { // another request has asked meanwhile
		return caller, nil
	}
	// A caller that leaves is held to the answer as well.
	caller, err := r.ask(context.WithoutCancel(ctx), token, claimed)
	if errors.Is(err, ErrUnavailable) {
		if caller, ok := r.remembered(claimed, hash, proofStale); ok {
			return caller, nil
		}
	}
	if err == nil {
		r.proofs.put(proof{token: hash, caller: caller, at: time.Now(), expires: expires}, func(pod string) bool {
			_, lives := r.options.Placement.agent(pod)
			return lives
		})
	}
	return caller, err
}

// patience is how old a proof may be: older than otherwise while the API server is
// known to be away, so that not every request waits for it.
func (r *TokenReview) patience() time.Duration {
	if time.Now().UnixNano() < r.awayUntil.Load() {
		return proofStale
	}
	return proofFresh
}

// remembered is who the token was found to be, as long as its pod is what it was.
func (r *TokenReview) remembered(claimed Caller, token [sha256.Size]byte, age time.Duration) (Caller, bool) {
	caller, found := r.proofs.find(claimed.PodUID, token, age)
	if !found {
		return Caller{}, false
	}
	agent, lives := r.options.Placement.agent(caller.PodUID)
	return caller, lives && agent.is(caller) == nil
}

// ask asks the API server about a token, and Placement about its pod. No caller may end
// ctx: an API server that does not answer in time is taken to be away.
func (r *TokenReview) ask(ctx context.Context, token string, claimed Caller) (Caller, error) {
	began := time.Now()
	status, err := r.review(ctx, token)
	r.asked.answered(began, status.Authenticated, err)
	if err != nil {
		r.awayUntil.Store(time.Now().Add(awayFor).UnixNano())
		return Caller{}, err
	}
	r.awayUntil.Store(0)
	if !status.Authenticated {
		return Caller{}, r.refuse(claimed, status.Error)
	}
	caller, err := r.proven(status)
	if err != nil {
		return Caller{}, err
	}
	return caller, r.alive(ctx, caller)
}

// plausible reads the claims of a token before its signature is verified. They prove
// nothing: but what they already show to be of no use, the API server is not asked.
func (r *TokenReview) plausible(token string) (claimed Caller, expires time.Time, err error) {
	parsed, err := jwt.ParseSigned(token, kubernetesAlgorithms)
	if err != nil {
		return claimed, expires, refused(identityv1.Reason_TOKEN_MALFORMED, "parse token: %v", err)
	}
	var c claims
	if err := parsed.UnsafeClaimsWithoutVerification(&c); err != nil {
		return claimed, expires, refused(identityv1.Reason_TOKEN_MALFORMED, "claims of the token: %v", err)
	}
	if claimed, err = c.caller(r.options.Expected); err != nil {
		return claimed, expires, err
	}
	if claimed.Pod == "" || claimed.PodUID == "" {
		return claimed, expires, refused(identityv1.Reason_TOKEN_POD_MISSING, "kubernetes.io.pod is missing in the token: it is not bound to a pod")
	}
	return claimed, c.Expiry.Time(), r.trusted(claimed.ServiceAccount)
}

func (r *TokenReview) trusted(sa identity.ServiceAccount) error {
	if slices.Contains(r.options.NodeAccounts, sa) {
		return nil
	}
	return refused(identityv1.Reason_ACCOUNT_NOT_TRUSTED, "ServiceAccount %v does not speak for nodes", sa)
}

// review asks the API server, for our audience only.
func (r *TokenReview) review(ctx context.Context, token string) (authenticationv1.TokenReviewStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewWithin)
	defer cancel()
	question := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.options.Expected.Audience}}}
	answer := &authenticationv1.TokenReview{}
	if err := r.reviews.Post().Resource("tokenreviews").Body(question).Do(ctx).Into(answer); err != nil {
		return answer.Status, unavailable(identityv1.Reason_API_UNAVAILABLE, "ask the API server: %v", err)
	}
	return answer.Status, nil
}

// refuse finds out why Kubernetes does not vouch for a token: it says so only in
// words, but we know which pods there are.
func (r *TokenReview) refuse(claimed Caller, said string) error {
	if _, found := r.options.Placement.agent(claimed.PodUID); !found {
		return refused(identityv1.Reason_TOKEN_POD_GONE, "Kubernetes refuses the token (%s), and the pod that it names, %s/%s of UID %s, is gone",
			said, claimed.ServiceAccount.Namespace, claimed.Pod, claimed.PodUID)
	}
	return refused(identityv1.Reason_TOKEN_REFUSED, "Kubernetes refuses the token: %s", said)
}

// proven is who the API server says the caller to be. It is read anew: the answer
// counts, not the claims that led to the question.
func (r *TokenReview) proven(status authenticationv1.TokenReviewStatus) (Caller, error) {
	if !slices.Contains(status.Audiences, r.options.Expected.Audience) { // an API server that does not know audiences says nothing about them
		return Caller{}, refused(identityv1.Reason_TOKEN_AUDIENCE_WRONG,
			"Kubernetes vouches for the token for the audience %q, want %q", status.Audiences, r.options.Expected.Audience)
	}
	namespace, name, _ := strings.Cut(strings.TrimPrefix(status.User.Username, subjectPrefix), ":")
	sa, err := identity.ParseServiceAccount(namespace + "/" + name)
	if err != nil || !strings.HasPrefix(status.User.Username, subjectPrefix) {
		return Caller{}, refused(identityv1.Reason_ACCOUNT_NOT_TRUSTED, "the token is of the user %q, who is no ServiceAccount", status.User.Username)
	}
	extra := func(key string) string {
		if values := status.User.Extra[key]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	caller := Caller{
		ServiceAccount: sa,
		Node:           extra(extraNodeName), NodeUID: extra(extraNodeUID),
		Pod: extra(extraPodName), PodUID: extra(extraPodUID),
		TokenID: extra(extraCredentialID),
	}
	switch {
	case caller.Pod == "" || caller.PodUID == "":
		return Caller{}, refused(identityv1.Reason_TOKEN_POD_MISSING, "Kubernetes names no pod that the token is bound to")
	case caller.Node == "":
		return Caller{}, refused(identityv1.Reason_TOKEN_NODE_MISSING, "Kubernetes names no node in the token: it must be 1.30 or newer")
	}
	return caller, r.trusted(sa)
}

// alive compares the caller with the live pod.
func (r *TokenReview) alive(ctx context.Context, caller Caller) error {
	agent, found, err := r.options.Placement.Agent(ctx, caller)
	switch {
	case errors.Is(err, errAskedTooOften):
		return unavailable(identityv1.Reason_TOO_MANY_REQUESTS, "the CA does not know the token's pod: %v", err)
	case err != nil:
		return unavailable(identityv1.Reason_API_UNAVAILABLE, "ask the API server: %v", err)
	case !found && !r.options.Placement.Synced():
		return unavailable(identityv1.Reason_CA_NOT_READY, "the CA does not know yet what runs where")
	case !found:
		return refused(identityv1.Reason_TOKEN_POD_GONE, "the token's pod, %s/%s of UID %s, is gone", caller.ServiceAccount.Namespace, caller.Pod, caller.PodUID)
	}
	if err := agent.is(caller); err != nil {
		return err
	}
	return r.options.Placement.sameNode(ctx, caller)
}

// is compares a live pod with the caller that its token makes.
func (a Agent) is(caller Caller) error {
	name := caller.ServiceAccount.Namespace + "/" + caller.Pod
	switch {
	case a.Node != caller.Node:
		return refused(identityv1.Reason_TOKEN_POD_DIFFERS, "the token's pod, %s, runs on node %s, and the token says %s", name, a.Node, caller.Node)
	case a.ServiceAccount != caller.ServiceAccount || a.Name != caller.Pod:
		return refused(identityv1.Reason_TOKEN_POD_DIFFERS, "the token's pod, %s of UID %s, is %s of ServiceAccount %v", name, caller.PodUID, a.Name, a.ServiceAccount)
	case a.Foreign != "":
		return refused(identityv1.Reason_TOKEN_POD_FOREIGN, "the token's pod, %s, does not speak for its node: %s", name, a.Foreign)
	}
	return nil
}
