// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// Reviewer is an API server that vouches for tokens and knows what their owners may do.
type Reviewer interface {
	// ReviewToken returns whose a token is, if it is meant for audience; empty: for the API server.
	ReviewToken(ctx context.Context, token, audience string) (kubeapi.User, error)
	MayListPods(ctx context.Context, u kubeapi.User, namespace string) (bool, error)
}

// Review is the Gate of a cluster: a viewer shows a token of Kubernetes, and sees the
// namespaces whose pods that token's owner may list.
type Review struct {
	API        Reviewer
	Namespaces func() []string // those of the mesh
	Audience   string          // for which a token must be; empty: the API server's own, with which the map could act as its viewers
	Now        func() time.Time

	sessions sessions
}

// SignIn is part of Gate.
func (v *Review) SignIn(ctx context.Context, token string) (string, error) {
	token, cookie := strings.TrimSpace(token), rand.Text()
	sealed, err := seal(token, cookie)
	if err != nil {
		return "", err
	}
	if _, _, err := v.admit(ctx, ofCookie(cookie), token, sealed); err != nil {
		return "", err
	}
	return cookie, nil
}

// SignOut is part of Gate.
func (v *Review) SignOut(r *http.Request) {
	if c, err := r.Cookie(cookieOf(r)); err == nil {
		v.sessions.end(ofCookie(c.Value))
	}
}

// Sight is part of Gate. Who sends a token with each request needs no cookie, as behind a
// proxy that signs users in.
func (v *Review) Sight(r *http.Request) (Sight, string, error) {
	shown := presented(r)
	if shown == "" {
		return Sight{}, "", ErrStranger
	}
	key, token := ofCookie(shown), shown
	s := v.sessions.find(key, v.now())
	if s != nil {
		var err error
		if token, err = s.open(shown); err != nil {
			return Sight{}, "", err
		}
	} else {
		if r.Header.Get("Authorization") == "" {
			return Sight{}, "", ErrStranger
		}
		key = ofToken(shown)
		s = v.sessions.find(key, v.now())
	}
	if s == nil {
		return v.admit(r.Context(), key, shown, nil)
	}
	sight, viewer, err := v.ask(r.Context(), s, token, v.sessions.asking)
	if errors.Is(err, ErrStranger) {
		v.sessions.end(key)
	}
	return sight, viewer, err
}

// admit makes a session of a token that the API server vouches for. Until it does, the
// token has neither a place among sessions nor a turn of theirs.
func (v *Review) admit(ctx context.Context, key, token string, sealed []byte) (Sight, string, error) {
	if token == "" || len(token) > maxToken {
		return Sight{}, "", ErrStranger
	}
	s, err := v.sessions.arrive(key, token, sealed, v.now())
	if err != nil {
		return Sight{}, "", err
	}
	sight, viewer, err := v.ask(ctx, s, token, v.sessions.admitting)
	v.sessions.settle(key, token, s, viewer, err, v.now())
	return sight, viewer, err
}

// ask returns what the owner of a session's token sees, and the owner's name, by an answer
// that is young. If the API server does not answer, nothing is seen.
func (v *Review) ask(ctx context.Context, s *session, token string, turns chan struct{}) (Sight, string, error) {
	namespaces := v.Namespaces()
	of := strings.Join(namespaces, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch age := v.now().Sub(s.asked); {
	case s.asked.IsZero():
	case s.err == nil && s.of == of && age < believeFor:
		return s.sight, s.user.Name, nil
	case errors.Is(s.err, ErrStranger) && age < refuseFor:
		return Sight{}, "", s.err
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return Sight{}, "", ctx.Err()
	}
	s.sight, s.err = v.review(ctx, s, token, namespaces)
	s.asked, s.of = v.now(), of
	return s.sight, s.user.Name, s.err
}

func (v *Review) review(ctx context.Context, s *session, token string, namespaces []string) (Sight, error) {
	user, err := v.API.ReviewToken(ctx, token, v.Audience)
	switch {
	case err != nil:
		return Sight{}, fmt.Errorf("ask the API server about a token: %v", err)
	case user.Name == "":
		return Sight{}, ErrStranger
	}
	s.user = user
	all, err := v.API.MayListPods(ctx, user, "")
	if err != nil {
		return Sight{}, fmt.Errorf("ask the API server what %s may see: %v", user.Name, err)
	}
	sight := Sight{All: all, Namespaces: map[string]bool{}}
	for _, namespace := range namespaces {
		if all {
			break
		}
		may, err := v.API.MayListPods(ctx, user, namespace)
		if err != nil {
			return Sight{}, fmt.Errorf("ask the API server what %s may see: %v", user.Name, err)
		}
		if may {
			sight.Namespaces[namespace] = true
		}
	}
	return sight, nil
}

func (v *Review) now() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}
