// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	unlike string // a user whose tokens are for others
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
		if review.Status.Audiences = review.Spec.Audiences; review.Spec.Token == a.unlike {
			review.Status.Audiences = nil // an authenticator that knows of none says so
		}
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
	return &Review{API: api, Namespaces: h.Namespaces, Audience: "culvert-map", Now: func() time.Time { return now }}, &now
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

func TestATokenThatIsForOthersLetsNobodyIn(t *testing.T) {
	h, a := secretMesh(), &apiServer{unlike: "root"}
	a.set("root", map[string]bool{"": true})
	gate, _ := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	if answer, text := ask(t, client, "GET", server.URL+"/api/graph", bearer("root")); answer.StatusCode != 401 || strings.Contains(text, "shop") {
		t.Errorf("%s: %s", answer.Status, text)
	}
	gate.Audience = "" // the API server's own are taken by word alone
	gate.sessions.refused = map[string]time.Time{}
	if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", bearer("root")); answer.StatusCode != 200 {
		t.Errorf("without an audience: %s", answer.Status)
	}
}

// signIn returns what a browser then sends.
func signIn(t *testing.T, server *httptest.Server, client *http.Client, token string) func(*http.Request) {
	t.Helper()
	answer, err := client.PostForm(server.URL+"/login", url.Values{"token": {token}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusSeeOther || len(answer.Cookies()) != 1 {
		t.Fatalf("sign in: %s", answer.Status)
	}
	return func(r *http.Request) { r.AddCookie(answer.Cookies()[0]) }
}

func TestASessionEndsWithItsCookie(t *testing.T) {
	h, a := secretMesh(), &apiServer{}
	a.set("ann", map[string]bool{"shop": true})
	gate, now := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	first, second := signIn(t, server, client, "ann"), signIn(t, server, client, "ann")
	if answer, _ := ask(t, client, "POST", server.URL+"/logout", first); answer.StatusCode != http.StatusSeeOther {
		t.Fatalf("sign out: %s", answer.Status)
	}
	if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", first); answer.StatusCode != 401 {
		t.Errorf("after it was signed out: %s", answer.Status)
	}
	*now = now.Add(cookieFor - time.Second)
	if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", second); answer.StatusCode != 200 {
		t.Errorf("the other one: %s", answer.Status)
	}
	*now = now.Add(time.Second)
	if answer, _ := ask(t, client, "GET", server.URL+"/api/graph", second); answer.StatusCode != 401 || len(gate.sessions.all) != 0 {
		t.Errorf("after %v: %s, %d sessions", cookieFor, answer.Status, len(gate.sessions.all))
	}
}

// A link must not sign anybody in as somebody else, nor leave a token in a proxy's log.
func TestATokenOfKubernetesIsTakenFromNoAddress(t *testing.T) {
	h, a := secretMesh(), &apiServer{}
	a.set("ann", map[string]bool{"shop": true})
	gate, _ := reviewed(t, a, h)
	server, client := serve(t, &Server{History: h, Gate: gate})
	answer, _ := ask(t, client, "GET", server.URL+"/?token=ann", nil)
	if answer.StatusCode != 401 || len(answer.Cookies()) != 0 || a.asked != 0 {
		t.Errorf("%s, %v, %d questions", answer.Status, answer.Cookies(), a.asked)
	}
}

func TestTheMemoryOfTheMapGivesNoTokenAway(t *testing.T) {
	sealed, err := seal("a token", "cookie")
	if err != nil || bytes.Contains(sealed, []byte("token")) {
		t.Fatalf("%q, %v", sealed, err)
	}
	s := session{sealed: sealed}
	if token, err := s.open("cookie"); token != "a token" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if token, err := s.open("another"); token != "" || !errors.Is(err, ErrStranger) {
		t.Errorf("by another cookie %q, %v", token, err)
	}
}

// slow is an API server that answers about nobody until it is let.
type slow struct {
	let   chan struct{}
	mu    sync.Mutex // guards what follows
	asked int
}

func (a *slow) ReviewToken(ctx context.Context, token, _ string) (kubeapi.User, error) {
	if token == "ann" {
		return kubeapi.User{Name: "ann"}, nil
	}
	a.mu.Lock()
	a.asked++
	a.mu.Unlock()
	select {
	case <-a.let:
	case <-ctx.Done():
	}
	return kubeapi.User{}, ctx.Err()
}

func (a *slow) MayListPods(context.Context, kubeapi.User, string) (bool, error) { return true, nil }

func withBearer(token string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	bearer(token)(r)
	return r
}

func TestStrangersTakeNoPlaceOfAViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &slow{let: make(chan struct{})}
		v := &Review{API: api, Namespaces: func() []string { return nil }}
		sees := func(when string) {
			t.Helper()
			if s, viewer, err := v.Sight(withBearer("ann")); !s.All || viewer != "ann" || err != nil {
				t.Errorf("%s: %+v, %q, %v", when, s, viewer, err)
			}
		}
		sees("at first")
		for i := range maxArriving {
			go v.Sight(withBearer(fmt.Sprintf("bogus-%d", i)))
		}
		synctest.Wait()
		if _, _, err := v.Sight(withBearer("one more")); !errors.Is(err, errBusy) {
			t.Errorf("one more than wait: %v", err)
		}
		time.Sleep(believeFor) // of the bubble: her answer is old
		sees("while strangers wait")
		close(api.let)
		synctest.Wait()
		for i := range maxArriving { // they are known by now
			if _, _, err := v.Sight(withBearer(fmt.Sprintf("bogus-%d", i))); !errors.Is(err, ErrStranger) {
				t.Errorf("bogus-%d: %v", i, err)
			}
		}
		if api.asked != maxArriving || len(v.sessions.all) != 1 || len(v.sessions.arriving) != 0 {
			t.Errorf("%d questions, %d sessions, %d arriving", api.asked, len(v.sessions.all), len(v.sessions.arriving))
		}
		for i := range 2 * maxRefused {
			_, _, _ = v.Sight(withBearer(fmt.Sprintf("more-%d", i))) // refused
		}
		sees("after all")
		if n := len(v.sessions.refused); n > maxRefused {
			t.Errorf("%d are remembered as none", n)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	var all sessions
	let := func(key, owner string, at int) {
		now := noon.Add(time.Duration(at) * time.Second)
		s, err := all.arrive(key, key, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		all.settle(key, key, s, owner, nil, now)
	}
	let("ann", "ann", 0)
	for i := range maxOfUser + 10 {
		let(fmt.Sprintf("eve-%d", i), "eve", i+1)
	}
	if len(all.all) != maxOfUser+1 || all.all["ann"] == nil || all.all["eve-9"] != nil {
		t.Errorf("%d sessions of one and of another user", len(all.all))
	}
	for i := range maxSessions + 10 {
		let(fmt.Sprintf("k-%d", i), fmt.Sprintf("user-%d", i), 1000+i)
	}
	if len(all.all) != maxSessions || all.all["ann"] != nil {
		t.Errorf("%d sessions", len(all.all))
	}
}
