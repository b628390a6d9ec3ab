// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

const (
	believeFor  = time.Minute // an answer of the API server
	maxSessions = 1000
	maxToken    = 16 << 10 // bytes
	maxReviews  = 4        // questions that are asked at a time
)

// Reviewer is an API server that vouches for tokens and knows what their owners may do.
type Reviewer interface {
	ReviewToken(ctx context.Context, token string) (kubeapi.User, error)
	MayListPods(ctx context.Context, u kubeapi.User, namespace string) (bool, error)
}

// Review is the Gate of a cluster: a viewer shows a token of Kubernetes, and sees the
// namespaces whose pods that token's owner may list.
type Review struct {
	API        Reviewer
	Namespaces func() []string // those of the mesh
	Now        func() time.Time

	mu       sync.Mutex // guards what follows
	sessions map[string]*session
	asking   chan struct{}
}

// session is a viewer, by a token that never leaves this process.
type session struct {
	token string
	used  time.Time

	mu    sync.Mutex // guards what follows; held while the API server is asked
	asked time.Time
	of    string // the namespaces that were asked about
	user  kubeapi.User
	sight Sight
	err   error
}

// SignIn is part of Gate.
func (v *Review) SignIn(ctx context.Context, token string) (string, error) {
	token = strings.TrimSpace(token)
	key, s, err := v.open(token, "c:"+rand.Text())
	if err != nil {
		return "", err
	}
	if _, _, err := v.ask(ctx, s); err != nil {
		v.close(key)
		return "", err
	}
	return strings.TrimPrefix(key, "c:"), nil
}

// Sight is part of Gate. Who sends a token with each request needs no cookie, as behind a
// proxy that signs users in.
func (v *Review) Sight(r *http.Request) (Sight, string, error) {
	shown := presented(r)
	if shown == "" {
		return Sight{}, "", ErrStranger
	}
	key := "c:" + shown
	v.mu.Lock()
	s := v.sessions[key]
	v.mu.Unlock()
	if s == nil && r.Header.Get("Authorization") != "" {
		var err error
		if key, s, err = v.open(shown, fmt.Sprintf("t:%x", sha256.Sum256([]byte(shown)))); err != nil {
			return Sight{}, "", err
		}
	}
	if s == nil {
		return Sight{}, "", ErrStranger
	}
	sight, viewer, err := v.ask(r.Context(), s)
	if errors.Is(err, ErrStranger) {
		v.close(key)
	}
	return sight, viewer, err
}

// open returns the session of a key, which it makes if there is none. The one that was not
// used for the longest time makes room.
func (v *Review) open(token, key string) (string, *session, error) {
	if token == "" || len(token) > maxToken {
		return "", nil, ErrStranger
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sessions == nil {
		v.sessions, v.asking = map[string]*session{}, make(chan struct{}, maxReviews)
	}
	s := v.sessions[key]
	if s == nil {
		if len(v.sessions) >= maxSessions {
			v.evict()
		}
		s = &session{token: token}
		v.sessions[key] = s
	}
	s.used = v.now()
	return key, s, nil
}

// evict drops the session that was not used for the longest time; mu is held.
func (v *Review) evict() {
	oldest := ""
	for key, s := range v.sessions {
		if oldest == "" || s.used.Before(v.sessions[oldest].used) {
			oldest = key
		}
	}
	delete(v.sessions, oldest)
}

func (v *Review) close(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.sessions, key)
}

// ask returns what the owner of a session's token sees, and the owner's name, by an answer
// that is young. If the API server does not answer, nothing is seen.
func (v *Review) ask(ctx context.Context, s *session) (Sight, string, error) {
	namespaces := v.Namespaces()
	of := strings.Join(namespaces, " ")
	v.mu.Lock()
	s.used = v.now()
	v.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.of == of && !s.asked.IsZero() && v.now().Sub(s.asked) < believeFor {
		return s.sight, s.user.Name, nil
	}
	select {
	case v.asking <- struct{}{}:
		defer func() { <-v.asking }()
	case <-ctx.Done():
		return Sight{}, "", ctx.Err()
	}
	s.sight, s.err = v.review(ctx, s, namespaces)
	s.asked, s.of = v.now(), of
	return s.sight, s.user.Name, s.err
}

func (v *Review) review(ctx context.Context, s *session, namespaces []string) (Sight, error) {
	user, err := v.API.ReviewToken(ctx, s.token)
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
