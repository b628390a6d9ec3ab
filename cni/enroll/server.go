// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener is the enroll socket.
type Listener struct {
	path string

	mu     sync.Mutex // guards what follows
	ln     *net.UnixListener
	file   os.FileInfo // what path leads to while nobody else changes it
	closed bool
}

// Listen opens the enroll socket at path, mode 0600, in a directory that it
// makes with mode 0700 and refuses to use with a wider one. It takes over from
// an older listener by rename, so that no ADD finds the socket missing.
// Closing leaves the file: a dead socket and none at all mean the same.
func Listen(path string) (*Listener, error) {
	ln, file, err := publish(path)
	if err != nil {
		return nil, err
	}
	return &Listener{path: path, ln: ln, file: file}, nil
}

func publish(path string) (*net.UnixListener, os.FileInfo, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the directory of the enroll socket: %v", err)
	}
	if err := onlyOurs(dir); err != nil {
		return nil, nil, fmt.Errorf("directory of the enroll socket: %v", err)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("listen on the enroll socket: %v", err)
	}
	ln.SetUnlinkOnClose(false)
	var file os.FileInfo
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		file, err = os.Lstat(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		ln.Close()
		return nil, nil, fmt.Errorf("put the enroll socket in place: %v", err)
	}
	return ln, file, nil
}

// Keep opens the socket anew if another hand removed or replaced it, and reports
// whether one did. Requests in progress go on.
func (l *Listener) Keep() (replaced bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there, err := os.Lstat(l.path); l.closed || err == nil && os.SameFile(there, l.file) {
		return false, nil
	}
	ln, file, err := publish(l.path)
	if err != nil {
		return true, err
	}
	former := l.ln
	l.ln, l.file = ln, file
	return true, former.Close() // Accept goes on with the next
}

func (l *Listener) now() *net.UnixListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln
}

// Accept accepts from trusted users only.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		ln := l.now()
		conn, err := ln.AcceptUnix()
		switch {
		case err != nil && ln != l.now():
			continue
		case err != nil:
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && trusted(uid) {
			return conn, nil
		}
		conn.Close()
	}
}

// Addr returns the address of the socket.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening, for good.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.ln.Close()
}

// onlyOurs refuses a directory that anyone but its owner, root or us, enters.
func onlyOurs(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %v", dir, err)
	}
	switch mode := st.Mode & 0o777; {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case !trusted(st.Uid):
		return fmt.Errorf("%s belongs to uid %d, want root", dir, st.Uid)
	case mode&0o077 != 0:
		return fmt.Errorf("%s has mode %#o, want 0700", dir, mode)
	}
	return nil
}

// trusted reports whether uid may be the other end: root or ourselves, which
// is one and the same for a ztunnel that runs as root.
func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// Serve answers plugins until ctx ends, then lets the requests in progress
// finish. Processes of other users are hung up on, by SO_PEERCRED, even should
// the directory have been opened to them.
func Serve(ctx context.Context, ln *Listener, h Handler) error {
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

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
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
	mux.Handle("POST "+pathGC, handle(gcRequest.validate, through(g, func(r gcRequest) string { return "network " + r.Network },
		func(ctx context.Context, r gcRequest) (struct{}, error) {
			return struct{}{}, h.GC(ctx, r.Network, r.Valid)
		})))
	return mux
}

func verb[Out any](name string, g *gate, call func(context.Context, Request) (Out, error)) http.Handler {
	who := func(r Request) string { return "sandbox " + r.ContainerID }
	return handle(func(r Request) error { return r.Validate(name) }, through(g, who, call))
}

// handle decodes In, calls, and encodes Out or a failure: 400 for what the
// plugin did wrong, 500 for what the handler could not do, 504 if it ran out
// of time and so decided nothing.
func handle[In, Out any](validate func(In) error, call func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
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
