// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// serve runs the server on a socket until the returned stop, or the test, ends.
func serve(t *testing.T, r *rig) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Serve(ctx, ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func dial(t *testing.T, addr string, config *tls.Config) identityv1.IstioCertificateServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return identityv1.NewIstioCertificateServiceClient(conn)
}

// trusting is what a node knows of the CA: its root, by file, and its name.
func trusting(r *rig) *tls.Config {
	pool := x509.NewCertPool()
	for _, root := range r.cfg.CA.Roots() {
		pool.AddCert(root)
	}
	return &tls.Config{RootCAs: pool, ServerName: "culvert-identity.culvert-system.svc"}
}

func outgoing(t *testing.T, token string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func TestNodeThatKnowsTheRootTalksToTheCA(t *testing.T) {
	r := newRig(t, nil)
	addr, stop := serve(t, r)
	client := dial(t, addr, trusting(r))
	response, err := client.CreateCertificate(outgoing(t, goodToken(t)), goodRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	if leaf := leafOf(t, response); leaf.URIs[0].String() != webID {
		t.Errorf("the leaf names %v", leaf.URIs)
	}
	if from, _ := r.log.take(t)[0]["from"].(string); !strings.HasPrefix(from, "127.0.0.1:") {
		t.Errorf("from %q", from)
	}

	_, err = client.CreateCertificate(outgoing(t, "x"), goodRequest(t))
	wantStatus(t, err, codes.Unauthenticated, "authorization")
	big := goodRequest(t)
	big.Csr = strings.Repeat("x", maxMessage)
	_, err = client.CreateCertificate(outgoing(t, goodToken(t)), big)
	wantStatus(t, err, codes.ResourceExhausted, "larger than max")

	other := trusting(r)
	other.ServerName = "istiod.istio-system.svc"
	_, err = dial(t, addr, other).CreateCertificate(outgoing(t, goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.Unavailable, "istiod.istio-system.svc")

	old := trusting(r)
	old.MaxVersion = tls.VersionTLS12
	_, err = dial(t, addr, old).CreateCertificate(outgoing(t, goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.Unavailable, "protocol version")

	stop()
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

type panicking struct{}

func (panicking) Attest(context.Context, string) (Caller, error) { panic("attestor") }

// CVE-2022-23635, GHSA-86vr-4wcv-mm9w, GHSA-8w5h-qr4r-2h6g: one request took the control
// plane down.
func TestPanicFailsOneRequestOnly(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Attestor = panicking{} })
	addr, _ := serve(t, r)
	client := dial(t, addr, trusting(r))
	for range 2 {
		_, err := client.CreateCertificate(outgoing(t, "x"), goodRequest(t))
		wantStatus(t, err, codes.Internal, "its log says more")
	}
	records := r.log.take(t)
	if len(records) != 2 || records[0]["msg"] != "request panicked" || !strings.Contains(records[0]["stack"].(string), "Attest") {
		t.Errorf("log %v", records)
	}
	if len(r.inFlight) != 0 {
		t.Errorf("%d requests are in flight", len(r.inFlight))
	}
}

type failing struct{ err error }

func (f failing) Attest(context.Context, string) (Caller, error) { return Caller{}, f.err }

func TestAttestorThatCannotTellIsNotARefusal(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Attestor = failing{ErrUnavailable} })
	_, err := r.CreateCertificate(withToken(t.Context(), "x"), goodRequest(t))
	wantStatus(t, err, codes.Unavailable, "authorization")
	r = newRig(t, func(c *Config) { c.Attestor = failing{errors.New("forged")} })
	_, err = r.CreateCertificate(withToken(t.Context(), "x"), goodRequest(t))
	wantStatus(t, err, codes.Unauthenticated, "forged")
	r = newRig(t, func(c *Config) { c.Attestor = failing{} })
	_, err = r.CreateCertificate(withToken(t.Context(), "x"), goodRequest(t))
	wantStatus(t, err, codes.Unauthenticated, "names no node")
}

func get(t *testing.T, handler http.Handler, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

func TestReadyOnceItIsKnownWhatRunsWhere(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Placement = NewPlacement() })
	if code, body := get(t, r.Handler(), "/healthz/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "not known yet") {
		t.Errorf("%d %q", code, body)
	}
	r.cfg.Placement.Trouble = func() string { return "Pod: connection refused" }
	if _, body := get(t, r.Handler(), "/healthz/ready"); !strings.Contains(body, "what runs where: Pod: connection refused") {
		t.Errorf("%q", body)
	}
	r.cfg.Placement.Replace(nil, nil)
	if code, body := get(t, r.Handler(), "/healthz/ready"); code != http.StatusOK || body != "ready\n" {
		t.Errorf("%d %q", code, body)
	}
}

func TestMetricsCountDecisionsAndShowExpiry(t *testing.T) {
	r := newRig(t, nil)
	for _, token := range []string{goodToken(t), "x", "y"} {
		r.CreateCertificate(withToken(t.Context(), token), goodRequest(t))
	}
	_, body := get(t, r.Handler(), "/metrics")
	for _, want := range []string{
		`culvert_identity_requests_total{code="OK",reason=""} 1`,
		`culvert_identity_requests_total{code="Unauthenticated",reason="token_malformed"} 2`,
		`culvert_identity_request_duration_seconds_count 3`,
		`culvert_identity_leaf_lifetime_seconds_bucket{le="3600"} 1`,
		`culvert_identity_leaf_lifetime_seconds_bucket{le="1800"} 0`,
		`culvert_identity_expiry_timestamp_seconds{certificate="root",sha256="`,
		`culvert_identity_expiry_timestamp_seconds{certificate="issuer",sha256="`,
		`culvert_identity_expiry_timestamp_seconds{certificate="serving",sha256=""} `,
		`culvert_identity_lifetime_seconds{certificate="serving",sha256=""} 86`, // a day, and the minute before
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// A root that was renewed needs no alert for its former certificate.
func TestOfARenewedRootOnlyTheNextCertificateHasAnEndInTheMetrics(t *testing.T) {
	opts := ca.Options{TrustDomain: td, RootTTL: 2 * 365 * 24 * time.Hour}
	files := must(ca.Make(opts))
	block, _ := pem.Decode(files[ca.RootKeyFile])
	key := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(crypto.Signer)
	files[ca.RootFile] = must(ca.NextRoot(files, key, ca.Options{}))[ca.RootFile]
	authority := must(ca.New(opts))
	if _, err := authority.Take(files); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) { c.CA = authority })
	_, body := get(t, r.Handler(), "/metrics")
	next := fmt.Sprintf(`culvert_identity_expiry_timestamp_seconds{certificate="root",sha256="%s"}`, fingerprint(files.Roots()[0])[:nameLength])
	if n := strings.Count(body, `culvert_identity_expiry_timestamp_seconds{certificate="root"`); n != 1 || !strings.Contains(body, next) || len(authority.Roots()) != 2 {
		t.Errorf("%d ends of roots, of %d in the bundle:\n%s", n, len(authority.Roots()), body)
	}
}

func TestMetricsAreServedUntilTheEnd(t *testing.T) {
	r := newRig(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.ServeMetrics(ctx, ln) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("http://" + ln.Addr().String() + "/healthz/ready")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	cancel()
	if err := <-done; err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("%d, %v", response.StatusCode, err)
	}
}

func TestConfigNamesAllThatIsWrong(t *testing.T) {
	_, err := New(Config{TTL: time.Second, NodeRate: -1, NodeBurst: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"CA", "Attestor", "Placement", "DNSNames", "TTL", "NodeRate", "NodeBurst"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if _, err := New(Config{DNSNames: []string{"ca.test", ""}}); err == nil || !strings.Contains(err.Error(), "DNSNames has an empty name") {
		t.Errorf("an empty name: %v", err)
	}
}

func TestPlacementIsTheLastFullPicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlacement()
		db := identity.ServiceAccount{Namespace: "shop", Name: "db"}
		if p.Synced() {
			t.Error("synced")
		}
		p.Replace([]Running{{Node: "node-1", ServiceAccount: web}, {Node: "node-1", ServiceAccount: web}, {Node: "node-2", ServiceAccount: db}}, nil)
		for _, test := range []struct {
			node string
			sa   identity.ServiceAccount
			want bool
		}{{"node-1", web, true}, {"node-2", db, true}, {"node-1", db, false}, {"node-2", web, false}, {"", web, false}} {
			if got, err := p.RunsOn(t.Context(), test.node, test.sa); (len(got) > 0) != test.want || err != nil {
				t.Errorf("%v on %q: %v, %v", test.sa, test.node, got, err)
			}
		}
		p.Replace(nil, nil)
		if runs, _ := p.RunsOn(t.Context(), "node-1", web); len(runs) > 0 || !p.Synced() {
			t.Error("gone, yet it runs")
		}
	})
}

// GO-2025-3664: state per peer grew without end.
func TestLimitsForgetIdleNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(1, 10)
		release, _, ok := l.take("busy")
		if !ok {
			t.Fatal("refused")
		}
		idle, _, _ := l.take("idle")
		idle()
		idle() // more than once is once
		time.Sleep(2 * time.Minute)
		l.take("other")
		if _, ok := l.nodes["idle"]; ok || l.nodes["busy"].inFlight != 1 {
			t.Errorf("%v", l.nodes)
		}
		release()
		time.Sleep(2 * time.Minute)
		l.take("other")
		if _, ok := l.nodes["busy"]; ok {
			t.Errorf("%v", l.nodes)
		}
	})
}

func TestOneNodeHasABoundedNumberInFlight(t *testing.T) {
	l := newLimits(1000, 1000)
	var releases []func()
	for range maxNodeInFlight {
		release, _, ok := l.take("node-1")
		if !ok {
			t.Fatal("refused")
		}
		releases = append(releases, release)
	}
	if _, _, ok := l.take("node-1"); ok {
		t.Error("one more")
	}
	releases[0]()
	if _, _, ok := l.take("node-1"); !ok {
		t.Error("refused after one has ended")
	}
}
