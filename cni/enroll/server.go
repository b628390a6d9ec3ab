// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/culvert-mesh/culvert/unixsocket"
)

// Listen opens the enroll socket at path.
func Listen(path string) (*unixsocket.Listener, error) {
	ln, err := unixsocket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on the enroll socket: %w", err)
	}
	return ln, nil
}

// Serve answers plugins until ctx ends, then lets the requests in progress
// finish.
func Serve(ctx context.Context, ln *unixsocket.Listener, h Handler) error {
	server := &http.Server{
		Handler:           routes(h),
		ReadHeaderTimeout: Budget,
		ReadTimeout:       Budget,
		WriteTimeout:      2 * Budget, // counted from the header: leaves a late handler time to say so
		IdleTimeout:       Budget,
		MaxHeaderBytes:    8 << 10,
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), Budget)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.Serve(ln)
	if stop() {
		return fmt.Errorf("serve the enroll socket: %v", err)
	}
	if err := <-stopped; err != nil {
		server.Close()
	}
	return nil
}

func routes(h Handler) http.Handler {
	mux, g := http.NewServeMux(), &gate{busy: map[string]int{}}
	mux.Handle("POST "+pathAdd, verb("add", g, h.Add))
	mux.Handle("POST "+pathDel, verb("del", g, func(ctx context.Context, r Request) (struct{}, error) {
		return struct{}{}, h.Del(ctx, r)
	}))
	mux.Handle("POST "+pathCheck, verb("check", g, func(ctx context.Context, r Request) (struct{}, error) {
		return struct{}{}, h.Check(ctx, r)
	}))
	mux.Handle("POST "+pathGC, handle(maxGCBody, gcRequest.validate, through(g, func(r gcRequest) string { return "network " + r.Network },
		func(ctx context.Context, r gcRequest) (struct{}, error) {
			return struct{}{}, h.GC(ctx, r.Network, r.Valid)
		})))
	return mux
}

func verb[Out any](name string, g *gate, call func(context.Context, Request) (Out, error)) http.Handler {
	who := func(r Request) string { return "sandbox " + r.ContainerID }
	return handle(maxBody, func(r Request) error { return r.Validate(name) }, through(g, who, call))
}

// handle decodes In from at most so many bytes, calls, and encodes Out or a failure:
// 400 for what the plugin did wrong, 500 for what the handler could not do, 504 if it
// ran out of time and so decided nothing.
func handle[In, Out any](most int64, validate func(In) error, call func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
		if err != nil {
			reply(w, http.StatusBadRequest, failure{fmt.Sprintf("read request: %v", err)})
			return
		}
		var in In
		if err = decode(body, &in); err == nil {
			err = validate(in)
		}
		if err != nil {
			reply(w, http.StatusBadRequest, failure{strings.ReplaceAll(err.Error(), "\n", "; ")})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), Budget)
		defer cancel()
		out, err := call(ctx, in)
		switch {
		case err != nil && ctx.Err() != nil:
			reply(w, http.StatusGatewayTimeout, failure{err.Error()})
		case err != nil:
			reply(w, http.StatusInternalServerError, failure{err.Error()})
		default:
			reply(w, http.StatusOK, out)
		}
	})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the plugin may have hung up; it acts as unanswered
}
