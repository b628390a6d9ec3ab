// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Ztunnel answers for /config_dump as a node's ztunnel does.
type Ztunnel struct {
	Node        string
	TrustDomain string // default cluster.local
	Held        []Held
	Policies    any
	Workloads   any
	Pods        map[string]any
	CA          map[string]any
	Skew        time.Duration // of its clock
	More        map[string]any
	Log         string // what /logging answers; default "level info"
	Events      []any  // what /events tells at once; then it is silent
}

// Held is an identity, with its certificate or why there is none.
type Held struct {
	ID    string
	State string // default Available
	Leaf  *Signer
	Roots []*Signer // default the root of the leaf
}

func dumped(signers ...*Signer) []map[string]any {
	all := []map[string]any{}
	for _, s := range signers {
		all = append(all, map[string]any{
			"pem": base64.StdEncoding.EncodeToString(s.PEM()), "serialNumber": s.Cert.SerialNumber.String(),
			"validFrom": s.Cert.NotBefore.Format(time.RFC3339), "expirationTime": s.Cert.NotAfter.Format(time.RFC3339),
		})
	}
	return all
}

func (h Held) dump() map[string]any {
	d := map[string]any{"identity": h.ID, "state": h.State, "certChain": []any{}, "rootCerts": []any{}}
	if h.State == "" {
		d["state"] = "Available"
	}
	if h.Leaf != nil {
		roots := h.Roots
		if roots == nil {
			roots = []*Signer{h.Leaf.By.By}
		}
		d["certChain"], d["rootCerts"] = dumped(h.Leaf, h.Leaf.By), dumped(roots...)
	}
	return d
}

// Dump is the /config_dump.
func (z Ztunnel) Dump() map[string]any {
	domain := z.TrustDomain
	if domain == "" {
		domain = "cluster.local"
	}
	certificates := []any{}
	for _, h := range z.Held {
		certificates = append(certificates, h.dump())
	}
	d := map[string]any{
		"certificates": certificates, "policies": []any{}, "policyObjects": z.Policies, "workloads": z.Workloads, "workloadState": z.Pods,
		"ca":     map[string]any{"ready": true, "reason": "signs", "since": Now.Add(-Day)},
		"config": map[string]any{"NodeName": z.Node, "TrustDomain": domain, "CAAddress": "ca.test:15012", "TTL": "1h0m0s"},
	}
	if z.CA != nil {
		d["ca"] = z.CA
	}
	for key, value := range z.More {
		d[key] = value
	}
	return d
}

// ServeHTTP answers as ztunnel's admin address does.
func (z Ztunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/events" && z.Events != nil {
		z.tell(w, r)
		return
	}
	if r.URL.Path == "/logging" {
		fmt.Fprintln(w, cmp.Or(z.Log, "level info"))
		return
	}
	if r.URL.Path != "/config_dump" || !strings.HasPrefix(r.Host, "127.0.0.1:") {
		http.Error(w, "this address answers for localhost only", http.StatusMisdirectedRequest)
		return
	}
	w.Header().Set("Date", time.Now().Add(z.Skew).UTC().Format(http.TimeFormat))
	_ = json.NewEncoder(w).Encode(z.Dump()) // a client that went is no matter
}

// tell answers /events until the client goes.
func (z Ztunnel) tell(w http.ResponseWriter, r *http.Request) {
	for _, e := range z.Events {
		_ = json.NewEncoder(w).Encode(e) // a client that went is no matter
	}
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// Serve starts a server until the test ends, and returns its address.
func Serve(t testing.TB, h http.Handler) string {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// ServeTLS presents a certificate with those above it to whoever connects, and wants one
// in return.
func ServeTLS(t testing.TB, s *Signer) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{s.Cert.Raw, s.By.Cert.Raw}, PrivateKey: s.Key}},
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = tls.Server(conn, config).Handshake() // it ends for want of a certificate
			}()
		}
	}()
	return ln.Addr().String()
}
