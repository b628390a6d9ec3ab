// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"io"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// Vouch has the server answer TokenReviews as f does. Asked and Refuse know them as
// "create tokenreviews".
func (s *Server) Vouch(f func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vouch = f
}

func (s *Server) review(w http.ResponseWriter, r *http.Request) {
	const what = "create tokenreviews"
	s.mu.Lock()
	s.requests[what]++
	vouch, refused := s.vouch, s.refused[what]
	s.mu.Unlock()
	a := &answer{w: w, group: authenticationv1.SchemeGroupVersion, protobuf: strings.Contains(r.Header.Get("Accept"), "protobuf")}
	if vouch == nil && refused == nil {
		refused = apierrors.NewNotFound(schema.GroupResource{}, "page")
	}
	if refused != nil {
		a.fail(refused)
		return
	}
	question := &authenticationv1.TokenReview{}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, _, err = serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(body, nil, question)
	}
	if err != nil {
		a.fail(apierrors.NewBadRequest(err.Error()))
		return
	}
	question.Status = vouch(question.Spec)
	w.Header().Set("Content-Type", a.mediaType())
	w.WriteHeader(http.StatusCreated)
	w.Write(a.encode(question))
}
