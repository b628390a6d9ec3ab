// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// Worker is a worker from the side that gives orders.
type Worker struct {
	hello
	conn net.Conn
	say  *json.Encoder
	hear *json.Decoder
}

// Post is where workers report for orders.
type Post struct {
	Path string
	ln   *net.UnixListener
}

// NewPost makes a socket in dir.
func NewPost(dir string) (*Post, error) {
	path := filepath.Join(dir, "load.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &Post{path, ln}, nil
}

// Await waits for the next worker to report.
func (p *Post) Await() (*Worker, error) {
	if err := p.ln.SetDeadline(time.Now().Add(patience * time.Second)); err != nil {
		return nil, err
	}
	conn, err := p.ln.Accept()
	if err != nil {
		return nil, fmt.Errorf("await a worker: %w", err)
	}
	w := &Worker{conn: conn, say: json.NewEncoder(conn), hear: json.NewDecoder(conn)}
	return w, w.hear.Decode(&w.hello)
}

// Close ends the post, not its workers.
func (p *Post) Close() error { return p.ln.Close() }

// Do has an order done.
func (w *Worker) Do(ctx context.Context, o Order) (Answer, error) {
	stop := context.AfterFunc(ctx, func() { w.conn.SetReadDeadline(time.Now()) })
	defer stop()
	if err := w.say.Encode(o); err != nil {
		return Answer{}, err
	}
	var a Answer
	if err := w.hear.Decode(&a); err != nil {
		return Answer{}, errors.Join(context.Cause(ctx), fmt.Errorf("hear the worker: %w", err))
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
