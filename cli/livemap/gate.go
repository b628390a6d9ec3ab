// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Gate decides who may look.
type Gate interface {
	// Sight is what the sender of a request sees, and a name for that viewer. ErrStranger:
	// it has to sign in first.
	Sight(r *http.Request) (s Sight, viewer string, err error)
	// SignIn takes the request's token, and returns the value of a cookie by which Sight
	// knows the viewer from then on. ErrStranger: the token is none.
	SignIn(ctx context.Context, token string) (cookie string, err error)
	// SignOut forgets the cookie of a request.
	SignOut(r *http.Request)
}

// ErrStranger says that nobody vouches for a viewer.
var ErrStranger = errors.New("this page needs a token")

const cookieName = "culvert-map"

// Token is the Gate of one machine: whoever has the token sees all. Other users of the
// machine reach the loopback, too, and do not have it.
type Token string

// NewToken makes one that nobody guesses.
func NewToken() Token { return Token(rand.Text()) }

// Sight is part of Gate.
func (t Token) Sight(r *http.Request) (Sight, string, error) {
	if !t.is(presented(r)) {
		return Sight{}, "", ErrStranger
	}
	return Sight{All: true}, "", nil
}

// SignIn is part of Gate.
func (t Token) SignIn(_ context.Context, token string) (string, error) {
	if !t.is(token) {
		return "", ErrStranger
	}
	return token, nil
}

// SignOut is part of Gate. The cookie is the token, which ends with the program.
func (t Token) SignOut(*http.Request) {}

func (t Token) is(token string) bool {
	return t != "" && subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1
}

// presented is the token or the cookie of a request.
func presented(r *http.Request) string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	if c, err := r.Cookie(cookieOf(r)); err == nil {
		return c.Value
	}
	return ""
}

// cookieOf is the name of the cookie. Browsers send cookies to all ports of a host.
func cookieOf(r *http.Request) string {
	if _, port, found := strings.Cut(r.Host[strings.LastIndex(r.Host, "]")+1:], ":"); found {
		return cookieName + "-" + port
	}
	return cookieName
}

const cookieFor = 12 * time.Hour

func setCookie(w http.ResponseWriter, r *http.Request, value string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieOf(r), Value: value, Path: "/", MaxAge: int(age.Seconds()), HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
}
