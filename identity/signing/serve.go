// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Bounds of a signer.
const (
	atOnce  = 16               // questions that are answered at a time; others are refused
	patient = 10 * time.Second // for a question to be told, and its answer to be taken
)

// Serve answers for the key that open returns, until ctx ends. ln must accept those alone
// who may sign. An error of open, or of a signature, is told to who asks.
func Serve(ctx context.Context, ln net.Listener, open func() (crypto.Signer, error)) error {
	s := &service{open: open, slots: make(chan struct{}, atOnce)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+publicPath, s.bounded(s.key))
	mux.HandleFunc("POST "+signPath, s.bounded(s.sign))
	server := &http.Server{Handler: mux, ReadTimeout: patient, WriteTimeout: 3 * patient, MaxHeaderBytes: 4 << 10}
	done := context.AfterFunc(ctx, func() { server.Close() })
	defer done()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type service struct {
	open  func() (crypto.Signer, error)
	slots chan struct{}
}

// refused is an error with its status.
type refused struct {
	status int
	error
}

func refuse(status int, format string, args ...any) error {
	return refused{status, fmt.Errorf(format, args...)}
}

// bounded answers by what a handler returns, if there is room.
func (s *service) bounded(handle func(*http.Request) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a answer
		err := refuse(http.StatusServiceUnavailable, "it answers %d others", atOnce)
		select {
		case s.slots <- struct{}{}:
			a, err = s.within(handle, r)
		default:
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			status := http.StatusServiceUnavailable
			if refusal, ok := err.(refused); ok {
				status = refusal.status
			}
			w.WriteHeader(status)
			a = answer{Error: err.Error()}
		}
		json.NewEncoder(w).Encode(a) // whoever went away hears nothing
	}
}

// within answers, and gives the place back.
func (s *service) within(handle func(*http.Request) (answer, error), r *http.Request) (answer, error) {
	defer func() { <-s.slots }()
	return handle(r)
}

func (s *service) key(*http.Request) (answer, error) {
	_, spki, err := s.opened()
	return answer{Public: spki}, err
}

func (s *service) opened() (crypto.Signer, []byte, error) {
	key, err := s.open()
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	return key, spki, err
}

func (s *service) sign(r *http.Request) (answer, error) {
	var q question
	body := http.MaxBytesReader(nil, r.Body, maxBody)
	if err := json.NewDecoder(body).Decode(&q); err != nil {
		return answer{}, refuse(http.StatusBadRequest, "the question cannot be read: %v", err)
	}
	opts, err := q.options()
	if err != nil {
		return answer{}, refuse(http.StatusBadRequest, "%v", err)
	}
	key, spki, err := s.opened()
	if err != nil {
		return answer{}, err
	}
	if have := fingerprint(spki); q.Key != have {
		return answer{}, refuse(http.StatusConflict, "its public key is %s, and a signature by %s was asked for", have, q.Key)
	}
	if err := fits(key.Public(), opts); err != nil {
		return answer{}, refuse(http.StatusBadRequest, "%v", err)
	}
	signature, err := key.Sign(rand.Reader, q.Message, opts)
	return answer{Signature: signature}, err
}

// fits says why a key signs nothing so, or nil. What a signer itself refuses is taken for its
// trouble: it must not be that somebody asked amiss.
func fits(public crypto.PublicKey, opts crypto.SignerOpts) error {
	_, whole := public.(ed25519.PublicKey)
	pss, _ := opts.(*rsa.PSSOptions)
	switch {
	case whole && opts.HashFunc() != 0:
		return fmt.Errorf("hash: a key of the type %T signs whole messages alone", public)
	case !whole && opts.HashFunc() == 0:
		return fmt.Errorf("hash: a key of the type %T signs digests alone", public)
	case pss == nil:
		return nil
	}
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("salt: a key of the type %T has none", public)
	}
	if longest := key.Size() - pss.Hash.Size() - 2; pss.SaltLength > longest || pss.SaltLength < rsa.PSSSaltLengthEqualsHash {
		return fmt.Errorf("salt: it has %d bytes, want %d to %d", pss.SaltLength, rsa.PSSSaltLengthEqualsHash, longest)
	}
	return nil
}

// hashes are those of signatures that verifiers of certificates know.
var hashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func (q question) options() (crypto.SignerOpts, error) {
	if len(q.Message) == 0 || len(q.Message) > maxMessage {
		return nil, fmt.Errorf("message: it has %d bytes, want 1 to %d", len(q.Message), maxMessage)
	}
	if q.Hash == "" {
		return crypto.Hash(0), nil
	}
	for _, hash := range hashes {
		if hash.String() != q.Hash {
			continue
		}
		if len(q.Message) != hash.Size() {
			return nil, fmt.Errorf("message: it has %d bytes, a digest of %s has %d", len(q.Message), q.Hash, hash.Size())
		}
		if q.Salt != 0 {
			return &rsa.PSSOptions{SaltLength: q.Salt, Hash: hash}, nil
		}
		return hash, nil
	}
	return nil, fmt.Errorf("hash: %q is not one of %v", q.Hash, hashes)
}
