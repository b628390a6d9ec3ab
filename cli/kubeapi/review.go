// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// User is whom a token belongs to.
type User struct {
	Name   string // empty: nobody
	UID    string
	Groups []string
	Extra  map[string][]string
}

// ReviewToken returns whose a token is; the zero User if the API server does not vouch for
// it, or if it is not meant for audience; empty: for the API server.
func (a *API) ReviewToken(ctx context.Context, token, audience string) (User, error) {
	review := authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
		Spec:     authenticationv1.TokenReviewSpec{Token: token},
	}
	if audience != "" {
		review.Spec.Audiences = []string{audience}
	}
	var answer authenticationv1.TokenReview
	if err := a.do(ctx, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", nil, review, &answer); err != nil {
		return User{}, err
	}
	// One that knows of no audiences names none: it vouches for tokens that are its own.
	said := answer.Status
	if !said.Authenticated || audience != "" && !slices.Contains(said.Audiences, audience) {
		return User{}, nil
	}
	u := User{Name: said.User.Username, UID: said.User.UID, Groups: said.User.Groups, Extra: map[string][]string{}}
	for key, values := range said.User.Extra {
		u.Extra[key] = values
	}
	return u, nil
}

// MayListPods reports whether a user may list the pods of a namespace; empty: of all.
func (a *API) MayListPods(ctx context.Context, u User, namespace string) (bool, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: u.Name, UID: u.UID, Groups: u.Groups, Extra: map[string]authorizationv1.ExtraValue{},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Namespace: namespace, Resource: "pods"},
	}
	for key, values := range u.Extra {
		spec.Extra[key] = values
	}
	review := authorizationv1.SubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"}, Spec: spec,
	}
	err := a.do(ctx, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", nil, review, &review)
	return review.Status.Allowed && !review.Status.Denied, err
}
