// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing/signingtest"
	"github.com/culvert-mesh/culvert/test/env"
)

// The program starts before its signer, loses it and has it again.
func TestNodesAreServedAsLongAsTheSignerSigns(t *testing.T) {
	dir := t.TempDir()
	authority, objects, jwks := filepath.Join(dir, "ca"), filepath.Join(dir, "objects"), filepath.Join(dir, "jwks.json")
	for _, path := range []string{authority, objects} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	signer := signingtest.Serve(t, signingtest.P256(t))
	files, err := ca.Make(ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), IssuerKey: signer.Key(t)})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write(t, filepath.Join(authority, name), string(text))
	}
	write(t, filepath.Join(objects, "shop.yaml"), shop)
	token := nodeToken(t, jwks, nil)
	addr, metrics := env.Address(t), env.Address(t)
	locked := errors.New("the token is locked")

	key := signer.Has(nil, locked)
	serve(t, dir, "-dir", authority, "-workloads", objects, "-jwks", jwks, "-listen", addr, "-metrics-address", metrics)
	eventually(t, "it says what it waits for", func() bool {
		return strings.Contains(fetched(metrics, "/readyz"), "the token is locked")
	})
	signer.Has(key, nil)
	eventually(t, "it is ready", func() bool { return fetched(metrics, "/readyz") == "ok\n" })
	n := node{t: t, token: token, client: dial(t, addr, filepath.Join(authority, ca.RootFile))}
	if err := n.ask(webID); err != nil {
		t.Error(err)
	}

	signer.Has(nil, locked)
	eventually(t, "it is not ready", func() bool {
		text := fetched(metrics, "/readyz")
		return strings.Contains(text, "[-]signer failed") && strings.Contains(text, locked.Error())
	})
	if err := n.ask(webID); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), locked.Error()) {
		t.Errorf("without its signer: %v", err)
	}
	for _, want := range []string{`culvert_identity_ca_events_total{event="SignerLost"} 1`, `culvert_identity_ready{target="signer"} 0`, `culvert_identity_signer_requests_total{outcome="away"} `} {
		eventually(t, "the metrics say "+want, func() bool { return strings.Contains(fetched(metrics, "/metrics"), want) })
	}
	signer.Has(key, nil)
	eventually(t, "it is ready again", func() bool { return fetched(metrics, "/readyz") == "ok\n" })
	if err := n.ask(webID); err != nil {
		t.Error(err)
	}
}

// fetched is what the program says at a path, or why there is no answer.
func fetched(addr, path string) string {
	response, err := http.Get("http://" + addr + path)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
