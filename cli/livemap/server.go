// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"compress/gzip"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed web/dist
var dist embed.FS

// policyOfContent lets the page load what this server has, and nothing else.
const policyOfContent = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// Server is the page and what it asks for.
type Server struct {
	History *History // required
	Gate    Gate     // required
	// Hosts are names by which browsers may ask for it, beside those of this machine's
	// loopback: a page whose name was rebound to our address must not read what we show.
	Hosts []string
	Walk  Walker // of refusals; nil: nobody walks

	streams streams
	walks   walks
}

// Handler returns what answers requests.
func (s *Server) Handler() http.Handler {
	files, err := fs.Sub(dist, "web/dist")
	if err != nil {
		panic(err) // it is embedded
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page(files))
	for _, name := range []string{"map.js", "map.css", "login.css", "icon.svg", "LICENSES.txt"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { serveFile(w, r, files, name) })
	}
	mux.HandleFunc("POST /login", s.signIn(files))
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		s.Gate.SignOut(r)
		setCookie(w, r, "", -time.Second)
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /api/graph", s.seeing(s.graph))
	mux.HandleFunc("GET /api/edge", s.seeing(s.edge))
	mux.HandleFunc("GET /api/why", s.seeing(s.walk))
	mux.HandleFunc("GET /api/words", s.seeing(func(w http.ResponseWriter, r *http.Request, _ Sight, _ string) { answer(w, r, words) }))
	mux.HandleFunc("GET /api/live", s.seeing(s.live))
	return s.guarded(http.NewCrossOriginProtection().Handler(mux))
}

// guarded sets what holds of each answer, and refuses strange host names.
func (s *Server) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policyOfContent)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if !s.answersFor(r.Host) {
			http.Error(w, "this server does not answer for the host "+strconv.Quote(r.Host)+": see --host", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) answersFor(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(s.Hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// page is the map, or for strangers where they sign in. The Token of the address becomes a
// cookie, so that it stays in no address bar. No other token is taken from there: an address
// stands in the logs of proxies, and a link must not sign anybody in as somebody else.
func (s *Server) page(files fs.FS) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		_, ofAddress := s.Gate.(Token)
		if token := query.Get("token"); ofAddress && token != "" {
			cookie, err := s.Gate.SignIn(r.Context(), token)
			if err != nil {
				s.strange(w, r, files, err)
				return
			}
			setCookie(w, r, cookie, cookieFor)
			query.Del("token")
			http.Redirect(w, r, (&urlOf{"/", query.Encode()}).String(), http.StatusSeeOther)
			return
		}
		if _, _, err := s.Gate.Sight(r); err != nil {
			s.strange(w, r, files, err)
			return
		}
		serveFile(w, r, files, "index.html")
	}
}

type urlOf struct{ path, query string }

func (u *urlOf) String() string {
	if u.query == "" {
		return u.path
	}
	return u.path + "?" + u.query
}

// strange shows where a token is given.
func (s *Server) strange(w http.ResponseWriter, r *http.Request, files fs.FS, err error) {
	text, readErr := fs.ReadFile(files, "login.html")
	if readErr != nil {
		http.Error(w, readErr.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(statusOf(err))
	if !errors.Is(err, ErrStranger) {
		text = []byte(strings.Replace(string(text), "<!-- problem -->", "The API server cannot be asked now.", 1))
	}
	_, _ = w.Write(text) // a client that went is no matter
}

func statusOf(err error) int {
	if errors.Is(err, ErrStranger) {
		return http.StatusUnauthorized
	}
	return http.StatusServiceUnavailable
}

func (s *Server) signIn(files fs.FS) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 2*maxToken)
		cookie, err := s.Gate.SignIn(r.Context(), strings.TrimSpace(r.PostFormValue("token")))
		if err != nil {
			s.strange(w, r, files, err)
			return
		}
		setCookie(w, r, cookie, cookieFor)
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

// seeing asks the gate before do answers.
func (s *Server) seeing(do func(w http.ResponseWriter, r *http.Request, sight Sight, viewer string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sight, viewer, err := s.Gate.Sight(r)
		switch {
		case errors.Is(err, ErrStranger):
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		case err != nil:
			http.Error(w, "the API server cannot be asked now", http.StatusServiceUnavailable)
			return
		}
		do(w, r, sight, viewer)
	}
}

func (s *Server) graph(w http.ResponseWriter, r *http.Request, sight Sight, _ string) {
	var at time.Time
	if text := r.URL.Query().Get("at"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			http.Error(w, "at "+strconv.Quote(text)+": want milliseconds since 1970", http.StatusBadRequest)
			return
		}
		at = time.UnixMilli(ms)
	}
	answer(w, r, s.History.Graph(sight, at))
}

func (s *Server) edge(w http.ResponseWriter, r *http.Request, sight Sight, _ string) {
	detail, known := s.History.Detail(sight, r.URL.Query().Get("id"))
	if !known {
		http.Error(w, "there is no such edge", http.StatusNotFound)
		return
	}
	answer(w, r, detail)
}

func serveFile(w http.ResponseWriter, r *http.Request, files fs.FS, name string) {
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, files, name)
}

// answer writes JSON, packed if the browser takes that: a graph of 2,000 edges is long.
func answer(w http.ResponseWriter, r *http.Request, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_ = json.NewEncoder(w).Encode(v) // a client that went is no matter
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is one
	}
	_ = json.NewEncoder(packed).Encode(v)
	_ = packed.Close()
}
