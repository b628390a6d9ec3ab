// SPDX-License-Identifier: Apache-2.0

package reference

//lint:file-ignore SA1019 the reference is what users of x/net/http2 have

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/net/http2"
)

// TLS is the configuration of both ends, by PEM files: mutual TLS 1.3 with
// X25519. Of the ciphers Go takes AES-128-GCM by itself.
func TLS(cert, key, roots, name string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", roots)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ServerName: name,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	}, nil
}

// tunnels is the client's end: one HTTP/2 connection, dialed when needed.
type tunnels struct {
	gate string
	tls  *tls.Config

	mu   sync.Mutex
	conn *http2.ClientConn
}

// Enter carries each connection of ln to an address through the gate, where
// Leave is: a CONNECT request whose body is a pipe.
func Enter(ln net.Listener, gate, to string, cfg *tls.Config) error {
	t := &tunnels{gate: gate, tls: cfg}
	return accept(ln, func(app *net.TCPConn) {
		defer app.Close()
		if err := t.carry(app, to); err != nil {
			app.SetLinger(0)
		}
	})
}

func (t *tunnels) carry(app *net.TCPConn, to string) error {
	conn, err := t.open()
	if err != nil {
		return err
	}
	body, up := io.Pipe()
	defer body.Close() // ends the sender if the stream ends first
	req, err := http.NewRequest(http.MethodConnect, "https://"+to, body)
	if err != nil {
		return err
	}
	go func() {
		_, err := copyPlain(up, app, chunk)
		up.CloseWithError(err) // nil: the end of the request
	}()
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if _, err := copyPlain(app, resp.Body, chunk); err != nil {
		return err
	}
	return app.CloseWrite()
}

// open returns the connection, or a new one if it takes no more streams.
func (t *tunnels) open() (*http2.ClientConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil && t.conn.CanTakeNewRequest() {
		return t.conn, nil
	}
	conn, err := tls.Dial("tcp", t.gate, t.tls)
	if err != nil {
		return nil, err
	}
	t.conn, err = new(http2.Transport).NewClientConn(conn)
	return t.conn, err
}

// Leave is the other end: it dials what a CONNECT asks for. Windows are those
// of the client's defaults; the server's own of 1 MB would hold it back.
func Leave(ln net.Listener, cfg *tls.Config) error {
	server := &http2.Server{MaxConcurrentStreams: 1 << 20, MaxUploadBufferPerStream: 4 << 20, MaxUploadBufferPerConnection: 1 << 30}
	opts := &http2.ServeConnOpts{Handler: http.HandlerFunc(connect), BaseConfig: new(http.Server)}
	return accept(ln, func(conn *net.TCPConn) {
		t := tls.Server(conn, cfg)
		if t.Handshake() != nil {
			conn.Close()
			return
		}
		server.ServeConn(t, opts)
	})
}

func connect(w http.ResponseWriter, r *http.Request) {
	conn, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer conn.Close()
	far, flusher := conn.(*net.TCPConn), w.(http.Flusher)
	w.WriteHeader(http.StatusOK)
	flusher.Flush()
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		if _, err := copyPlain(far, r.Body, chunk); err != nil {
			far.Close()
			return
		}
		far.CloseWrite()
	})
	if _, err := copyPlain(flushing{w, flusher}, far, chunk); err != nil {
		panic(http.ErrAbortHandler) // RST_STREAM
	}
}

// flushing sends at once what is written: a tunnel's bytes do not wait.
type flushing struct {
	io.Writer
	http.Flusher
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	f.Flush()
	return n, err
}
