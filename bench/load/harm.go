// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// chainLength is of a chain of which each certificate but the leaf could be, and by its
// signature is, the issuer of each: all have one subject and one key. Whoever looks for a way to a
// root among them has a hundred to try; their names differ, or crypto/x509 would take
// them for one.
const chainLength = 8

// strangers makes a chain of so many. No root of anybody's is in it.
func strangers(curve elliptic.Curve, length int) (cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return cert, err
	}
	cert.PrivateKey = key
	for n := range length {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(n + 1)), Subject: pkix.Name{CommonName: "nobody"}, DNSNames: []string{fmt.Sprint("nobody", n)},
			URIs:      []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/nobody/sa/nobody"}}, // else nobody looks further
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}
		if n == 0 { // an authority's is no workload's
			template.IsCA, template.KeyUsage = false, x509.KeyUsageDigitalSignature
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return cert, err
		}
		cert.Certificate = append(cert.Certificate, der)
	}
	return cert, nil
}

// refusedHandshakes counts those that it began, with strangers' certificates.
func refusedHandshakes(o Order, curve elliptic.Curve, length int) (Answer, error) {
	cert, err := strangers(curve, length)
	if err != nil {
		return Answer{}, err
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, InsecureSkipVerify: true,
	}
	var done atomic.Int64
	var group errgroup.Group
	p := pace{o: o, start: time.Now()}
	for range o.Streams {
		group.Go(func() error {
			for p.next() {
				conn, err := net.DialTimeout("tcp", o.To.String(), patience*time.Second)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(patience * time.Second))
				t := tls.Client(conn, cfg)
				if t.Handshake() == nil {
					_, _ = t.Read(make([]byte, 1)) // until it is refused
				}
				conn.Close()
				done.Add(1)
			}
			return nil
		})
	}
	err = group.Wait()
	return Answer{Count: int(done.Load()), Elapsed: time.Since(p.start)}, err
}

// pace is when to go on with an order: by the clock if it has a Rate, else at once.
type pace struct {
	o     Order
	start time.Time
	begun atomic.Int64
}

// next waits for the next turn, and reports false when the order's time is over.
func (p *pace) next() bool {
	if p.o.Rate > 0 {
		turn := time.Duration(float64(p.begun.Add(1)-1) / p.o.Rate * float64(time.Second))
		time.Sleep(min(turn, p.o.Duration) - time.Since(p.start))
	}
	return time.Since(p.start) < p.o.Duration
}

// stalled is how long a write that moves nothing says that there is no more room.
const stalled = 300 * time.Millisecond

// stall fills connections until nothing more goes into them.
func (w *worker) stall(o Order) (Answer, error) {
	conns, err := openReady(o, o.Streams, hold, 0)
	w.held = append(w.held, conns...)
	if err != nil {
		return Answer{Count: len(conns)}, err
	}
	var group errgroup.Group
	for _, conn := range conns {
		group.Go(func() error {
			wait := unix.NsecToTimeval(int64(stalled))
			if err := unix.SetsockoptTimeval(int(conn), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
				return err
			}
			for buf := make([]byte, writeSize); ; {
				if _, err := conn.Write(buf); errors.Is(err, unix.EAGAIN) {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	}
	return Answer{Count: len(conns)}, group.Wait()
}
