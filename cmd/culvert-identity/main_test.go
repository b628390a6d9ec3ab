// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"culvert-identity": main})
}

var update = flag.Bool("update", false, "rewrite golden files")

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: *update})
}

func TestOnlyPodsThatTheMeshCarriesRunSomewhere(t *testing.T) {
	pod := func(change func(*workload.Workload)) workload.Workload {
		w := workload.Workload{UID: "u-1", Namespace: "shop", Name: "web-1", ServiceAccount: "web", Node: "node-1", Meshed: true}
		change(&w)
		return w
	}
	got := running(workload.Mesh{Workloads: workload.Pack(
		pod(func(w *workload.Workload) {}),
		pod(func(w *workload.Workload) { w.ServiceAccount, w.Meshed = "plain", false }),
		pod(func(w *workload.Workload) { w.ServiceAccount, w.HostNetwork = "host", true }),
		pod(func(w *workload.Workload) {
			w.ServiceAccount, w.Meshed, w.Unsteerable = "vm", false, "a virtual machine"
		}),
		pod(func(w *workload.Workload) { w.ServiceAccount, w.Terminated = "done", true }),
		pod(func(w *workload.Workload) { w.ServiceAccount, w.Node = "pending", "" }),
	)}, &leafNames{})
	at := func(name, outside string) server.Running {
		return server.Running{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: name}, UID: "u-1", Outside: outside}
	}
	want := []server.Running{
		at("web", ""), at("plain", "no label puts pod shop/web-1 into the mesh"), at("host", "pod shop/web-1 is in the node's network namespace"),
		at("vm", "pod shop/web-1: a virtual machine"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("running %v, want %v", got, want)
	}
}

const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u-1}
spec:
  nodeName: node-1
  serviceAccountName: web
  containers: [{name: app, image: app}]
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
`

// node is what a node has: the root by file, a token, and the CA's address.
type node struct {
	t      *testing.T
	token  string
	client identityv1.IstioCertificateServiceClient
}

func (n node) ask(id string) error {
	_, err := n.chain(id)
	return err
}

// chain asks for a certificate, and returns it with what is above it, in PEM.
func (n node) chain(id string) ([]string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+n.token)
	answer, err := n.client.CreateCertificate(ctx, &identityv1.IstioCertificateRequest{
		Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			identityv1.ImpersonatedIdentity: structpb.NewStringValue(id),
		}},
	}, grpc.WaitForReady(true))
	return answer.GetCertChain(), err
}

// start runs the CA until the test ends.
func start(t *testing.T, cfg config) {
	t.Helper()
	if cfg.admin == "127.0.0.1:15013" { // two CAs of a test, or of two tests, share the machine
		cfg.admin = "127.0.0.1:0"
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func TestNodeIsServedByFilesAlone(t *testing.T) {
	dir := t.TempDir()
	cfg := config{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	flags := flag.NewFlagSet("culvert-identity", flag.ContinueOnError)
	define(flags, &cfg)
	addr, metrics := env.Address(t), env.Address(t)
	if err := flags.Parse([]string{
		"-dir", filepath.Join(dir, "ca"), "-workloads", filepath.Join(dir, "workloads"), "-jwks", filepath.Join(dir, "jwks.json"),
		"-listen", addr, "-metrics-address", metrics, "-dns-name", "other,ca.test", "-ttl", "10m",
	}); err != nil {
		t.Fatal(err)
	}
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	token := nodeToken(t, cfg.jwks, nil)
	if err := os.Mkdir(cfg.workloads, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cfg.workloads, "shop.yaml"), shop)

	start(t, cfg)
	awaitReady(t, metrics)
	n := node{t: t, token: token, client: dial(t, addr, filepath.Join(cfg.dir, "root.pem"))}
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/web"); err != nil {
		t.Error(err)
	}
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/db"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a ServiceAccount that does not run there: %v", err)
	}
	// A pod that comes is known at once; the request waits for it if need be.
	write(t, filepath.Join(cfg.workloads, "db.yaml"), strings.NewReplacer("web-1", "db-1", "web", "db", "u-1", "u-2", "10.0.0.1", "10.0.0.2").
		Replace(shop[strings.Index(shop, "---"):]))
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/db"); err != nil {
		t.Errorf("after its pod has come: %v", err)
	}
}

// What docs/first-run.sh makes is what docs/running.md says it is good for.
func TestTheFilesOfAFirstRunAreServed(t *testing.T) {
	dir := t.TempDir()
	var token string
	for range 8 { // an ES256 signature is two numbers; some are short
		out, err := exec.Command("../../docs/first-run.sh", "files", dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(filepath.Join(dir, "token"))
		if err != nil {
			t.Fatal(err)
		}
		token = string(text)
		caller, err := (&server.JWKS{File: filepath.Join(dir, "jwks.json")}).Attest(t.Context(), token)
		if err != nil || caller.Node != "node1" || caller.ServiceAccount.String() != "culvert-system/ztunnel" {
			t.Fatalf("the token is of %+v, %v", caller, err)
		}
	}
	for _, secret := range []string{"key.pem", "token"} {
		if st, err := os.Stat(filepath.Join(dir, secret)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, st.Mode(), err)
		}
	}
	addr, metrics := env.Address(t), env.Address(t)
	cfg, err := parse("-dir", filepath.Join(dir, "ca"), "-workloads", filepath.Join(dir, "objects"), "-jwks", filepath.Join(dir, "jwks.json"),
		"-listen", addr, "-metrics-address", metrics, "-dns-name", "ca.test")
	if err != nil {
		t.Fatal(err)
	}
	cfg.log = slog.New(slog.DiscardHandler)
	start(t, cfg)
	awaitReady(t, metrics)
	n := node{t: t, token: token, client: dial(t, cfg.listen, filepath.Join(cfg.dir, "root.pem"))}
	for _, account := range []string{"client", "server"} {
		if err := n.ask("spiffe://cluster.local/ns/demo/sa/" + account); err != nil {
			t.Error(err)
		}
	}
	if err := n.ask("spiffe://cluster.local/ns/demo/sa/other"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an account of no pod: %v", err)
	}
	n.token = token[:len(token)-4] + "AAAA"
	if err := n.ask("spiffe://cluster.local/ns/demo/sa/client"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a forged token: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// nodeToken is one of ztunnel's on node-1. It writes the JWKS that vouches for it.
func nodeToken(t *testing.T, jwks string, pod map[string]any) string {
	t.Helper()
	return tokenOf(t, tokenSigner(t, jwks), "node-1", pod)
}

// tokenSigner signs tokens by a new key, which it puts into jwks.
func tokenSigner(t *testing.T, jwks string) jose.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, jwks, string(text))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// tokenOf is the token of ztunnel's pod on a node.
func tokenOf(t *testing.T, signer jose.Signer, node string, pod map[string]any) string {
	t.Helper()
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": server.KubernetesIssuer, "sub": "system:serviceaccount:culvert-system:ztunnel",
		"aud": "culvert-identity", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "culvert-system", "serviceaccount": map[string]any{"name": "ztunnel"}, "node": map[string]any{"name": node, "uid": "of " + node}, "pod": pod,
		},
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// dial is a client in a connection that lasts until the test ends.
func dial(t *testing.T, addr, root string) identityv1.IstioCertificateServiceClient {
	t.Helper()
	conn := connect(t, addr, root)
	t.Cleanup(func() { conn.Close() })
	return identityv1.NewIstioCertificateServiceClient(conn)
}

// connect waits for the root that the CA makes at its first start.
func connect(t *testing.T, addr, root string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		ServerName: "ca.test", InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			text, err := os.ReadFile(root)
			if err != nil {
				return err
			}
			pool, intermediates := x509.NewCertPool(), x509.NewCertPool()
			pool.AppendCertsFromPEM(bytes.TrimSpace(text))
			intermediates.AddCert(state.PeerCertificates[1])
			_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, DNSName: "ca.test"})
			return err
		},
	})))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
