// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// greeting is an HTTP/2 client's preface, with empty SETTINGS and the
// acknowledgement of the server's.
const greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
	"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x00\x04\x01\x00\x00\x00\x00"

// dialer opens tunnels as an HBONE peer does, up to the first stream.
func (c Credential) dialer() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(c.Roots)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", c.Roots)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, SessionTicketsDisabled: true,
		// A SPIFFE certificate has no host name to verify, only a chain.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			for _, c := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		},
	}, nil
}

func openTunnel(o Order, cfg *tls.Config) (*tls.Conn, error) {
	conn, err := net.DialTimeout("tcp", o.To.String(), patience*time.Second)
	if err != nil {
		return nil, err
	}
	t := tls.Client(conn, cfg)
	_ = t.SetDeadline(time.Now().Add(patience * time.Second))
	if err := t.Handshake(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t, nil
}

// handshakes opens tunnels and closes them, each of Streams one after the
// other. A tunnel counts when the server has spoken in it: in TLS 1.3 the
// client is done before the server has verified it.
func handshakes(o Order) (Answer, error) {
	cfg, err := o.Tunnel.dialer()
	if err != nil {
		return Answer{}, err
	}
	var done atomic.Int64
	var group errgroup.Group
	start := time.Now()
	end := start.Add(o.Duration)
	for range o.Streams {
		group.Go(func() error {
			for time.Now().Before(end) {
				t, err := openTunnel(o, cfg)
				if err != nil {
					return err
				}
				err = greet(t)
				t.Close()
				if err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err = group.Wait()
	return Answer{Count: int(done.Load()), Elapsed: time.Since(start)}, err
}

func greet(t *tls.Conn) error {
	if _, err := t.Write([]byte(greeting)); err != nil {
		return err
	}
	var settings [9]byte
	_, err := io.ReadFull(t, settings[:])
	return err
}

// tunnels opens Streams tunnels and keeps them.
func (w *worker) openTunnels(o Order) (Answer, error) {
	cfg, err := o.Tunnel.dialer()
	if err != nil {
		return Answer{}, err
	}
	for n := range o.Streams {
		t, err := openTunnel(o, cfg)
		if err == nil {
			w.tunnels = append(w.tunnels, t)
			err = greet(t)
		}
		if err != nil {
			return Answer{Count: n}, fmt.Errorf("tunnel %d: %w", n+1, err)
		}
		_ = t.SetDeadline(time.Time{})
	}
	return Answer{Count: o.Streams}, nil
}
