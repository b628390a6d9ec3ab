// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// wire is a CA at the other end of a socket. It checks no token, it tells which it saw.
type wire struct {
	identityv1.UnimplementedIstioCertificateServiceServer
	ca     *ca.CA
	pusher *pusher                             // nil: it knows Istio's protocol only
	signer identityv1.CertificateServiceServer // in the place of pusher; nil: none

	mu      sync.Mutex
	slow    time.Duration // how long an answer takes
	tokens  []string
	request *identityv1.IstioCertificateRequest
	err     error
	self    spiffeid.ID // of a caller who asks for nobody else
	chain   []string    // if not nil: in place of a true answer
}

func (w *wire) CreateCertificate(ctx context.Context, request *identityv1.IstioCertificateRequest) (*identityv1.IstioCertificateResponse, error) {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	time.Sleep(slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	meta, _ := metadata.FromIncomingContext(ctx)
	w.tokens = append(w.tokens, meta.Get("authorization")...)
	w.request = request
	if w.err != nil {
		return nil, w.err
	}
	if w.chain != nil {
		return &identityv1.IstioCertificateResponse{CertChain: w.chain}, nil
	}
	id := w.self
	if other := request.GetMetadata().GetFields()[identityv1.ImpersonatedIdentity].GetStringValue(); other != "" {
		var err error
		if id, err = spiffeid.FromString(other); err != nil {
			return nil, err
		}
	}
	chain, err := w.ca.Sign([]byte(request.GetCsr()), id, time.Duration(request.GetValidityDuration())*time.Second)
	if err != nil {
		return nil, err
	}
	return &identityv1.IstioCertificateResponse{CertChain: []string{text(chain[0]), text(chain[1]), text(w.ca.Roots()...)}}, nil
}

func text(certs ...*x509.Certificate) string {
	var out bytes.Buffer
	for _, cert := range certs {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return out.String()
}

const caName = "culvert-identity.culvert-system.svc"

// serve starts the wire on an address until the returned stop, or the test, ends.
func serve(t *testing.T, w *wire, addr string) (listening string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: w.ca.ServerCertificate(caName),
	})))
	identityv1.RegisterIstioCertificateServiceServer(server, w)
	if w.pusher != nil {
		identityv1.RegisterCertificateServiceServer(server, w.pusher)
	}
	if w.signer != nil {
		identityv1.RegisterCertificateServiceServer(server, w.signer)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	stop = sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// files are the root and the token of a node.
func files(t *testing.T, authority *ca.CA) ClientConfig {
	t.Helper()
	dir := t.TempDir()
	cfg := ClientConfig{RootFile: filepath.Join(dir, "root.pem"), TokenFile: filepath.Join(dir, "token"), ServerName: caName}
	write(t, cfg.RootFile, text(authority.Roots()...))
	write(t, cfg.TokenFile, "first\n")
	return cfg
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, cfg ClientConfig) *Client {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func issue(t *testing.T, c *Client) (Issued, error) {
	t.Helper()
	key, err := newPrivateKey("")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := key.csr(web)
	if err != nil {
		t.Fatal(err)
	}
	return c.Issue(soon(t), web, csr, time.Hour)
}

func TestTwoStoresOverTheWireMakeATunnel(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	nodes := make([]*Store, 2)
	for i := range nodes {
		nodes[i] = New(Config{TrustDomain: td, Issuer: dial(t, cfg), Log: quiet})
		runUntilEnd(t, nodes[i])
	}
	t.Cleanup(nodes[0].Hold(web))
	t.Cleanup(nodes[1].Hold(db))
	sc, _, err := nodes[1].Server(soon(t), db)
	if err != nil {
		t.Fatal(err)
	}
	cc, _, err := nodes[0].Client(soon(t), web, db)
	if err != nil {
		t.Fatal(err)
	}
	if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
		t.Errorf("server %v, client %v", e.serverErr, e.clientErr)
	}
}

func TestRequestIsWhatIstiodReads(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	if _, err := issue(t, dial(t, cfg)); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := w.request.GetMetadata().AsMap(); len(got) != 1 || got["ImpersonatedIdentity"] != web.String() {
		t.Errorf("metadata %v", got)
	}
	if got := w.request.GetValidityDuration(); got != 3600 {
		t.Errorf("validity %d", got)
	}
	block, _ := pem.Decode([]byte(w.request.GetCsr()))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(csr.Subject.Names) != 0 || len(csr.URIs) != 1 || csr.URIs[0].String() != web.String() || csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("CSR of %v for %v by %v", csr.Subject, csr.URIs, csr.SignatureAlgorithm)
	}
}

func TestTokenIsReadForEachRequest(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	c := dial(t, cfg)
	issue(t, c)
	write(t, cfg.TokenFile, "second")
	issue(t, c)
	w.mu.Lock()
	if got := strings.Join(w.tokens, ","); got != "Bearer first,Bearer second" {
		t.Errorf("tokens %q", got)
	}
	w.mu.Unlock()
	if err := os.Remove(cfg.TokenFile); err != nil {
		t.Fatal(err)
	}
	if _, err := issue(t, c); err == nil || !strings.Contains(err.Error(), cfg.TokenFile) {
		t.Errorf("%v", err)
	}
	write(t, cfg.TokenFile, strings.Repeat("x", maxToken+1))
	if _, err := issue(t, c); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("%v", err)
	}
}

// A001-3: another CA in the middle is refused.
func TestCAIsVerifiedByTheRootFileAsItIsNow(t *testing.T) {
	w, other := &wire{ca: newCA(t, td)}, newCA(t, td)
	cfg := files(t, other)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	c := dial(t, cfg)
	wantProblem(t, c, CACertificate)
	write(t, cfg.RootFile, "# no certificate\n")
	wantProblem(t, c, RootFile)
	write(t, cfg.RootFile, text(other.Roots()[0], w.ca.Roots()[0]))
	if _, err := issue(t, c); err != nil { // waits until the connection is tried again
		t.Errorf("the right root among two: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.tokens) != 1 {
		t.Errorf("%d tokens were shown to a CA that was not verified", len(w.tokens)-1)
	}
}

func TestCAOfAnotherNameIsRefused(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	cfg.ServerName = "" // then it is the host, 127.0.0.1
	wantProblem(t, dial(t, cfg), CAName)
}

// wantProblem has the Client check until that is what it finds: when gRPC tries
// to connect again is its own business.
func wantProblem(t *testing.T, c *Client, want Reason) {
	t.Helper()
	ctx := soon(t)
	for ctx.Err() == nil {
		_, err := c.Check(ctx)
		var known *Problem
		if errors.As(err, &known) && known.Reason == want {
			return
		}
		t.Logf("not yet: %v", err)
		wait(ctx, 10*time.Millisecond, nil)
	}
	t.Fatalf("never %s", want)
}

// A leaf of a workload chains to the same root: it must not pass for the CA.
func TestWorkloadCannotPassForTheCA(t *testing.T) {
	authority := newCA(t, td)
	key, err := newPrivateKey("")
	if err != nil {
		t.Fatal(err)
	}
	csr, _ := key.csr(web)
	chain, err := authority.Sign(csr, web, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(files(t, authority))
	if err := l.verify(tls.ConnectionState{PeerCertificates: chain}); err == nil || !strings.Contains(err.Error(), caName) {
		t.Errorf("%v", err)
	}
}

// Whoever answers at the CA's address is a stranger, too.
func TestCAWithAChainThatCostsTooMuchIsRefused(t *testing.T) {
	root := certstest.NewCA()
	cfg := files(t, newCA(t, td))
	write(t, cfg.RootFile, text(root.Cert))
	l := newLink(cfg)
	named := func(c *x509.Certificate) { c.DNSNames = []string{cfg.ServerName} }
	good := root.Leaf(web, named)
	dear := certstest.Mint(certstest.Leaf(web, named), certstest.NewKey(elliptic.P521()), root)
	for _, test := range []struct {
		leaf *certstest.Signer
		want error
	}{{good, nil}, {dear, errCostly}} {
		err := l.verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{test.leaf.Cert}})
		if !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
		l.note(err)
	}
	var known *Problem
	if err := l.problem(); !errors.As(err, &known) || known.Reason != CACertificate {
		t.Errorf("%v, want %s", err, CACertificate)
	}
}

func TestRefusalKeepsTheCAsSentence(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	c := dial(t, cfg)
	for code, reason := range map[codes.Code]Reason{
		codes.PermissionDenied: Refused, codes.Unauthenticated: Refused, codes.InvalidArgument: Refused, codes.ResourceExhausted: Refused,
		codes.Internal: Failed, codes.Unknown: Failed,
	} {
		w.mu.Lock()
		w.err = status.Error(code, "no pod of shop/web runs on node-1")
		w.mu.Unlock()
		_, err := issue(t, c)
		var known *Problem
		if !errors.As(err, &known) || !strings.Contains(err.Error(), "no pod of shop/web runs on node-1") || known.Reason != reason {
			t.Errorf("%v: %v", code, err)
		}
	}
}

func TestClientFindsTheCAAgain(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	cfg := files(t, w.ca)
	addr, stop := serve(t, w, env.Address(t))
	cfg.Address = addr
	c := dial(t, cfg)
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Issue(ctx, web, nil, time.Hour); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("while it is down: %v", err)
	}
	serve(t, w, addr)
	if _, err := issue(t, c); err != nil {
		t.Errorf("after it is back: %v", err)
	}
}

func TestAnswersThatAreNoChainAreRefused(t *testing.T) {
	authority := newCA(t, td)
	root := text(authority.Roots()...)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	for name, chain := range map[string][]string{
		"empty": {}, "root only": {root}, "not PEM": {"x", root}, "empty leaf": {"", root}, "a key": {key, root},
		"broken leaf": {broken, root}, "broken root": {root, broken}, "too many": make([]string, maxChain+1),
	} {
		if issued, err := parseIssued(chain); err == nil {
			t.Errorf("%s: %v", name, issued)
		}
	}
	issued, err := parseIssued([]string{root, root + root, broken + root})
	if err != nil || len(issued.Chain) != 3 || len(issued.Roots) != 1 {
		t.Errorf("%d and %d, %v", len(issued.Chain), len(issued.Roots), err)
	}
}

func TestClientConfigNamesAllThatIsMissing(t *testing.T) {
	_, err := NewClient(ClientConfig{Address: "ca"})
	if err == nil {
		t.Fatal("it is complete")
	}
	for _, want := range []string{"address", "RootFile", "TokenFile"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func FuzzIssued(f *testing.F) {
	authority := newCA(f, td)
	root := text(authority.Roots()...)
	f.Add(root, root)
	f.Add("", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, leaf, root string) {
		issued, err := parseIssued([]string{leaf, root})
		if err == nil && (len(issued.Chain) == 0 || len(issued.Roots) == 0) {
			t.Fatal("an empty chain")
		}
	})
}
