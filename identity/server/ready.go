// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// target is one thing that the CA needs to serve nodes.
type target struct {
	name    string
	err     error
	bearing bool // the CA serves nodes without it: it does not make the CA unready
}

// counts reports whether the target keeps the CA from being ready.
func (t target) counts() bool { return t.err != nil && !t.bearing }

// targets are all of them, each as it is now. What one lacks is said of that one alone.
func (s *Server) targets() []target {
	all := []target{
		{name: "store", err: s.stored()},
		{name: "authority", err: s.signs()},
		{name: "serving-certificate", err: s.proves()},
		{name: "placement", err: s.places()},
	}
	if key := s.cfg.CA.Signer(); key != nil {
		all = append(all, target{name: "signer", err: key.Trouble()})
	}
	if checked, ok := s.cfg.Attestor.(interface{ Check() error }); ok {
		err := checked.Check()
		all = append(all, target{name: "tokens", err: err, bearing: errors.Is(err, ErrUnavailable)})
	}
	return all
}

// stored is why what the CA is kept in does not let it serve yet, or nil.
func (s *Server) stored() error {
	if s.cfg.Waiting == nil {
		return nil
	}
	return s.cfg.Waiting()
}

// signs is why the CA cannot sign now, or nil.
func (s *Server) signs() error {
	switch {
	case s.cfg.CA.Issuer() == nil:
		return ca.ErrNotOpen
	case time.Until(s.cfg.CA.NotAfter()) < ca.MinTTL:
		return ca.ErrExpired
	}
	return nil
}

// proves is why the CA cannot prove to nodes that it is the CA, or nil. Of a CA that
// cannot sign, signs says it.
func (s *Server) proves() error {
	_, err := s.certificate(nil)
	if err != nil && s.signs() != nil {
		return nil
	}
	return err
}

// places is why the CA does not know what runs where, or nil.
func (s *Server) places() error {
	if s.cfg.Placement.Synced() {
		return nil
	}
	return s.cfg.Placement.unknown()
}

// ready is why certificates cannot be had now, or nil.
func (s *Server) ready() error {
	for _, t := range s.targets() {
		if t.counts() {
			return t.err
		}
	}
	return nil
}

// unable is why the CA cannot sign now, or not prove to nodes that it is the CA, or nil.
func (s *Server) unable() error {
	if err := s.signs(); err != nil {
		return err
	}
	return s.proves()
}

// cannotSign is the answer to a node because of the CA's own state.
func cannotSign(err error) error {
	if errors.Is(err, ca.ErrNotOpen) || errors.Is(err, signing.ErrAway) || errors.Is(err, signing.ErrOtherKey) {
		return refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "%v", err)
	}
	return refusal(codes.FailedPrecondition, identityv1.Reason_CA_EXPIRED, "%v", err)
}

// handleReadiness serves /readyz as Kubernetes' programs do, /readyz/TARGET for one
// target, and /healthz/ready, which says why in one sentence.
func (s *Server) handleReadiness(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		list(w, s.targets(), r.URL.Query().Has("verbose"))
	})
	mux.HandleFunc("GET /readyz/{target}", func(w http.ResponseWriter, r *http.Request) {
		for _, t := range s.targets() {
			if t.name != r.PathValue("target") {
				continue
			}
			if t.err != nil {
				http.Error(w, t.name+": "+t.err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
			return
		}
		http.NotFound(w, r)
	})
}

// list writes a line for each target: if all is well, only on demand.
func list(w http.ResponseWriter, targets []target, verbose bool) {
	var text strings.Builder
	failed := false
	for _, t := range targets {
		switch {
		case t.err == nil:
			fmt.Fprintf(&text, "[+]%s ok\n", t.name)
		case t.counts():
			failed = true
			fmt.Fprintf(&text, "[-]%s failed: %v\n", t.name, t.err)
		default:
			fmt.Fprintf(&text, "[-]%s failed, and nodes are served without it: %v\n", t.name, t.err)
		}
	}
	switch {
	case failed:
		http.Error(w, text.String()+"readyz check failed", http.StatusServiceUnavailable)
	case verbose:
		fmt.Fprint(w, text.String()+"readyz check passed\n")
	default:
		fmt.Fprintln(w, "ok")
	}
}

// Check reports that the API server was away a moment ago. Nodes that proved themselves
// within the hour are served nevertheless: the error wraps ErrUnavailable.
func (r *TokenReview) Check() error {
	if r.patience() == proofFresh {
		return nil
	}
	return fmt.Errorf("%w: the API server does not answer", ErrUnavailable)
}
