// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// apiServer reviews tokens and rights: a token is its owner's name.
type apiServer struct {
	mu     sync.Mutex                 // guards what follows
	rights map[string]map[string]bool // by user: namespaces whose pods they may list; "": all
	asked  int
	down   bool
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/apis/authentication.k8s.io/v1/tokenreviews":
		var review authenticationv1.TokenReview
		_ = json.NewDecoder(r.Body).Decode(&review) // it is our own client's
		_, review.Status.Authenticated = a.rights[review.Spec.Token]
		review.Status.User = authenticationv1.UserInfo{Username: review.Spec.Token, Groups: []string{"devs"}}
		_ = json.NewEncoder(w).Encode(review)
	case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		var review authorizationv1.SubjectAccessReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		right := review.Spec.ResourceAttributes
		review.Status.Allowed = a.rights[review.Spec.User][right.Namespace] && right.Verb == "list" && right.Resource == "pods" && review.Spec.Groups[0] == "devs"
		_ = json.NewEncoder(w).Encode(review)
	default:
		http.NotFound(w, r)
	}
}

func (a *apiServer) set(user string, rights map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rights == nil {
		a.rights = map[string]map[string]bool{}
	}
	if a.rights[user] = rights; rights == nil {
		delete(a.rights, user)
	}
}

func reviewed(t *testing.T, a *apiServer, h *History) (*Review, *time.Time) {
	t.Helper()
	api, err := kubeapi.Open(clitest.Kubeconfig(t, a, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	now := noon
	return &Review{API: api, Namespaces: h.Namespaces, Now: func() time.Time { return now }}, &now
}

func TestViewersSeeTheNamespacesWhosePodsTheyMayList(t *testing.T) {
	h, a := secretMesh(), &apiServer{}
	a.set("root", map[string]bool{"": true})
	a.set("ann", map[string]bool{"shop": true})
	a.set("eve", map[string]bool{})
	gate, now := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	for user, want := range map[string]int{"root": 4, "ann": 2, "eve": 0} {
		_, text := ask(t, client, "GET", server.URL+"/api/graph", bearer(user))
		var g Graph
		if err := json.Unmarshal([]byte(text), &g); err != nil || len(g.Edges) != want || user != "root" && strings.Contains(text, secret) {
			t.Errorf("%s: %v, %s", user, err, text)
		}
	}
	asked := a.asked
	ask(t, client, "GET", server.URL+"/api/graph", bearer("ann"))
	if a.asked != asked {
		t.Error("a young answer was asked for again")
	}
	a.set("ann", map[string]bool{})
	*now = now.Add(believeFor)
	if _, text := ask(t, client, "GET", server.URL+"/api/graph", bearer("ann")); strings.Contains(text, "shop") {
		t.Errorf("after the right was taken: %s", text)
	}
	a.set("ann", nil)
	*now = now.Add(believeFor)
	if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", bearer("ann")); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the token was: %s", answer.Status)
	}
}

func TestAViewerSignsInOnceAndTheTokenIsInNoCookie(t *testing.T) {
	h, a := secretMesh(), &apiServer{}
	a.set("ann", map[string]bool{"shop": true})
	gate, now := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	for token, want := range map[string]int{"ann": 303, "mallory": 401, "": 401, strings.Repeat("x", maxToken+1): 401} {
		answer, err := client.PostForm(server.URL+"/login", url.Values{"token": {token}})
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("token %.9q: %s, want %d", token, answer.Status, want)
		}
		if want != 303 {
			continue
		}
		cookie := answer.Cookies()[0]
		if cookie.Value == token {
			t.Error("the cookie is the token")
		}
		show := func(r *http.Request) { r.AddCookie(cookie) }
		if answer, text := ask(t, client, "GET", server.URL+"/api/graph", show); answer.StatusCode != 200 || !strings.Contains(text, "shop/web") {
			t.Errorf("%s: %s", answer.Status, text)
		}
		if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", bearer(cookie.Value)); answer.StatusCode != 200 {
			// It is an opaque name of the session, however it is shown.
			t.Errorf("the session by a header: %s", answer.Status)
		}
		a.set("ann", nil)
		*now = now.Add(believeFor)
		if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", show); answer.StatusCode != 401 {
			t.Errorf("after the token was revoked: %s", answer.Status)
		}
	}
}

func TestWithoutAnAPIServerNothingIsSeen(t *testing.T) {
	h, a := secretMesh(), &apiServer{}
	a.set("root", map[string]bool{"": true})
	gate, now := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	ask(t, client, "GET", server.URL+"/api/graph", bearer("root"))
	a.mu.Lock()
	a.down = true
	a.mu.Unlock()
	*now = now.Add(believeFor)
	if answer, text := ask(t, client, "GET", server.URL+"/api/graph", bearer("root")); answer.StatusCode != 503 || strings.Contains(text, "shop") {
		t.Errorf("%s: %s", answer.Status, text)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	v := &Review{Now: func() time.Time { return noon }}
	for i := range maxSessions + 10 {
		if _, _, err := v.open("t", strings.Repeat("k", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.sessions) != maxSessions {
		t.Errorf("%d sessions", len(v.sessions))
	}
}
