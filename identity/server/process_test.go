// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
)

const batchID = "spiffe://cluster.local/ns/legacy/sa/batch"

// joining is a rig whose CA takes join tokens.
func joining(t testing.TB) (*rig, join.Directory) {
	store := join.Directory(t.TempDir())
	return newRig(t, func(c *Config) { c.Join = store }), store
}

func joinToken(t testing.TB, store join.Store, id string) join.Token {
	t.Helper()
	token, _, err := join.Create(context.Background(), store, join.Options{Identity: spiffeid.RequireFromString(id), TTL: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// proc is what a process outside Kubernetes has.
type proc struct {
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // nil before it has joined
}

func newProc() *proc { return &proc{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))} }

func (p *proc) request(id string) *identityv1.IstioCertificateRequest {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p.key))
	return &identityv1.IstioCertificateRequest{
		Csr:      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		Metadata: must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: id})),
	}
}

// take keeps what the CA gave.
func (p *proc) take(t testing.TB, response *identityv1.IstioCertificateResponse) {
	t.Helper()
	p.chain = nil
	for _, text := range response.GetCertChain()[:2] {
		block, _ := pem.Decode([]byte(text))
		p.chain = append(p.chain, must(x509.ParseCertificate(block.Bytes)))
	}
}

// shown is a request on a connection whose client has proved to hold certs[0].
func shown(ctx context.Context, certs ...*x509.Certificate) context.Context {
	return peer.NewContext(ctx, &peer.Peer{
		Addr: joinAddr{}, AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: certs}},
	})
}

type joinAddr struct{}

func (joinAddr) Network() string { return "tcp" }
func (joinAddr) String() string  { return "192.0.2.7:1024" }

func wantReason(t testing.TB, err error, code codes.Code, reason identityv1.Reason) {
	t.Helper()
	wantStatus(t, err, code, "")
	if got := reasonOf(err); got != reason {
		t.Errorf("%v: the word is %v, want %v", err, got, reason)
	}
}

// A process joins by its token and renews by its certificate, as itself.
func TestAProcessOutsideKubernetesJoinsOnceAndRenewsByItsCertificate(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	response, err := r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))
	if err != nil {
		t.Fatal(err)
	}
	p.take(t, response)
	leaf := p.chain[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != batchID || ca.ProcessOf(leaf) != token.ID {
		t.Errorf("the leaf is %v of the process %q", leaf.URIs, ca.ProcessOf(leaf))
	}
	if nodes := r.visits.all(); len(nodes) != 0 {
		t.Errorf("the process is among the nodes: %v", nodes)
	}
	records := r.log.take(t)
	if len(records) != 1 || records[0]["msg"] != "certificate issued" || records[0]["process"] != token.ID || records[0]["node"] != "" {
		t.Errorf("log %v", records)
	}

	renewed := newProc() // a new key each time
	response, err = r.CreateCertificate(shown(t.Context(), p.chain...), renewed.request(batchID))
	if err != nil {
		t.Fatal(err)
	}
	renewed.take(t, response)
	if leaf := renewed.chain[0]; leaf.URIs[0].String() != batchID || ca.ProcessOf(leaf) != token.ID || leaf.Equal(p.chain[0]) {
		t.Errorf("renewed to %v of the process %q", leaf.URIs, ca.ProcessOf(leaf))
	}
	if _, err := r.CreateCertificate(shown(t.Context(), renewed.chain...), newProc().request(batchID)); err != nil {
		t.Errorf("by the renewed one: %v", err)
	}
}

// The answer may be lost: whoever holds the key may ask again with the token, as long as
// the token could have been redeemed. Another key may not.
func TestAJoinTokenIsRedeemedByOneKey(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	for range 2 {
		if _, err := r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID)); err != nil {
			t.Fatal(err)
		}
	}
	r.log.take(t)
	_, err := r.CreateCertificate(withToken(t.Context(), token.Text()), newProc().request(batchID))
	wantReason(t, err, codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_REDEEMED)
	if records := r.log.take(t); len(records) != 1 || records[0]["refusal"] != "join_token_redeemed" || records[0]["process"] != token.ID {
		t.Errorf("log %v", records)
	}
}

// SPIRE 1.14.6 had two agents of one join token. Two replicas of the CA share a store.
func TestOfProcessesThatRaceForOneTokenOneJoins(t *testing.T) {
	one, store := joining(t)
	other := newRig(t, func(c *Config) { c.Join, c.CA = store, one.cfg.CA })
	for range 10 {
		token := joinToken(t, store, batchID)
		var wg sync.WaitGroup
		var errs [8]error
		start := make(chan struct{})
		for i := range errs {
			r := one
			if i%2 == 1 {
				r = other
			}
			request := newProc().request(batchID)
			wg.Go(func() {
				<-start
				_, errs[i] = r.CreateCertificate(withToken(context.Background(), token.Text()), request)
			})
		}
		close(start)
		wg.Wait()
		joined := 0
		for _, err := range errs {
			if err == nil {
				joined++
			} else {
				wantReason(t, err, codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_REDEEMED)
			}
		}
		if joined != 1 {
			t.Fatalf("%d processes joined by one token", joined)
		}
	}
}

// A001-3: a token proves nothing but what it was made for.
func TestAJoinTokenIsForOneIdentityAndNoNode(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	for _, id := range []string{
		webID, // runs on node-1
		"spiffe://cluster.local/ns/legacy/sa/batch2",
		"spiffe://cluster.local/ns/culvert-system/sa/ztunnel",
	} {
		_, err := r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(id))
		wantReason(t, err, codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED)
	}
	_, err := r.Check(withToken(t.Context(), token.Text()), &identityv1.CheckRequest{})
	wantReason(t, err, codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED)

	// None of that has used the token up.
	response, err := r.CreateCertificate(withToken(t.Context(), token.Text()), newProc().request(batchID))
	if err != nil {
		t.Fatal(err)
	}
	p.take(t, response)
	for _, id := range []string{webID, "spiffe://cluster.local/ns/culvert-system/sa/ztunnel"} {
		_, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(id))
		wantReason(t, err, codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED)
	}
	_, err = r.Check(shown(t.Context(), p.chain...), &identityv1.CheckRequest{})
	wantReason(t, err, codes.PermissionDenied, identityv1.Reason_PROCESS_NOT_ALLOWED)
}

// Istio's pilot-agent on a virtual machine names an empty signer and no identity.
func TestAProcessThatNamesNoIdentityAsksForItsOwn(t *testing.T) {
	r, store := joining(t)
	for _, meta := range []map[string]any{nil, {"CertSigner": ""}} {
		p := newProc()
		q := p.request(batchID)
		q.Metadata = must(structpb.NewStruct(meta))
		p.take(t, must(r.CreateCertificate(withToken(t.Context(), joinToken(t, store, batchID).Text()), q)))
		if id := p.chain[0].URIs[0].String(); id != batchID {
			t.Errorf("it is now %s", id)
		}
		if _, err := r.CreateCertificate(shown(t.Context(), p.chain...), q); err != nil {
			t.Error(err)
		}
		_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), q)
		wantReason(t, err, codes.InvalidArgument, identityv1.Reason_ID_MALFORMED) // a node has none of its own
	}
}

// A token is not lost by a request that could not have been granted.
func TestARequestThatIsRefusedUsesNoTokenUp(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	for name, spoil := range map[string]func(*identityv1.IstioCertificateRequest){
		"no CSR":            func(q *identityv1.IstioCertificateRequest) { q.Csr = "" },
		"negative lifetime": func(q *identityv1.IstioCertificateRequest) { q.ValidityDuration = -1 },
		"a signer": func(q *identityv1.IstioCertificateRequest) {
			q.Metadata = must(structpb.NewStruct(map[string]any{"CertSigner": "x"}))
		},
		"foreign trust domain": func(q *identityv1.IstioCertificateRequest) {
			q.Metadata = newProc().request("spiffe://example.org/ns/legacy/sa/batch").Metadata
		},
	} {
		q := newProc().request(batchID)
		spoil(q)
		if _, err := r.CreateCertificate(withToken(t.Context(), token.Text()), q); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if _, err := r.CreateCertificate(withToken(t.Context(), token.Text()), newProc().request(batchID)); err != nil {
		t.Error(err)
	}
}

func TestJoinTokensThatProveNothing(t *testing.T) {
	r, store := joining(t)
	good := joinToken(t, store, batchID).Text()
	revoked := joinToken(t, store, batchID)
	if err := store.Remove(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	broken := joinToken(t, store, batchID)
	if err := os.WriteFile(filepath.Join(string(store), broken.ID+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token  string
		code   codes.Code
		reason identityv1.Reason
	}{
		"malformed":      {"culvert-join.x", codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_UNKNOWN},
		"unknown":        {strings.Replace(good, good[13:29], "0000000000000000", 1), codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_UNKNOWN},
		"another secret": {good[:30] + joinToken(t, store, batchID).Text()[30:], codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_UNKNOWN},
		"revoked":        {revoked.Text(), codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_UNKNOWN},
		"not readable":   {broken.Text(), codes.Unavailable, identityv1.Reason_CA_NOT_READY},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.CreateCertificate(withToken(t.Context(), test.token), newProc().request(batchID))
			wantReason(t, err, test.code, test.reason)
			if secret := good[30:]; strings.Contains(err.Error(), secret) {
				t.Errorf("%v quotes a secret", err)
			}
		})
	}
	if _, err := r.CreateCertificate(withToken(t.Context(), good), newProc().request(batchID)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestAJoinTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := joining(t)
		token := joinToken(t, store, batchID)
		time.Sleep(10*time.Minute - time.Second)
		p := newProc()
		if _, err := r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		_, err := r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))
		wantReason(t, err, codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_EXPIRED)
	})
}

func TestACAThatTakesNoJoinTokensSaysSo(t *testing.T) {
	r := newRig(t, nil)
	token := joinToken(t, join.Directory(t.TempDir()), batchID)
	_, err := r.CreateCertificate(withToken(t.Context(), token.Text()), newProc().request(batchID))
	wantStatus(t, err, codes.Unauthenticated, "takes no join tokens")
	if got := r.clientAuth(); got != tls.NoClientCert {
		t.Errorf("certificates of clients: %v", got)
	}
}

// Each row is a good certificate but for one thing.
func TestCertificatesByWhichNobodyRenews(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))

	foreign := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td}))
	sign := func(c *ca.CA, id, process string) []*x509.Certificate {
		issued := must(c.Issue(p.key.Public(), spiffeid.RequireFromString(id), process, time.Hour))
		return append([]*x509.Certificate{must(x509.ParseCertificate(issued.Leaf))}, issued.Above...)
	}
	unredeemed := joinToken(t, store, batchID)
	for name, test := range map[string]struct {
		certs  []*x509.Certificate
		reason identityv1.Reason
	}{
		"of another root":       {sign(foreign, batchID, token.ID), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"without its issuer":    {p.chain[:1], identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"of a node's pod":       {must(r.cfg.CA.Sign([]byte(p.request(webID).Csr), spiffeid.RequireFromString(webID), time.Hour)), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"of another identity":   {sign(r.cfg.CA, webID, token.ID), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"of a token not in use": {sign(r.cfg.CA, batchID, unredeemed.ID), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"of no process":         {sign(r.cfg.CA, batchID, "../../etc/passwd"), identityv1.Reason_PROCESS_REVOKED},
		"the CA's own":          {serverChain(t, r), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"the issuer":            {p.chain[1:], identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
		"a long chain":          {append(append([]*x509.Certificate{}, p.chain...), p.chain[1], p.chain[1], p.chain[1]), identityv1.Reason_PROCESS_CERTIFICATE_WRONG},
	} {
		t.Run(name, func(t *testing.T) {
			id := batchID
			if uris := test.certs[0].URIs; len(uris) == 1 {
				id = uris[0].String()
			}
			_, err := r.CreateCertificate(shown(t.Context(), test.certs...), newProc().request(id))
			wantReason(t, err, codes.Unauthenticated, test.reason)
		})
	}
	if _, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func serverChain(t *testing.T, r *rig) []*x509.Certificate {
	cert := must(r.certificate(nil))
	var chain []*x509.Certificate
	for _, der := range cert.Certificate {
		chain = append(chain, must(x509.ParseCertificate(der)))
	}
	return chain
}

// A connection outlives a certificate: what counts is the moment of the request.
func TestAProcessRenewsBeforeItsCertificateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := joining(t)
		p := newProc()
		p.take(t, must(r.CreateCertificate(withToken(t.Context(), joinToken(t, store, batchID).Text()), p.request(batchID))))
		time.Sleep(time.Hour - time.Second)
		if _, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		_, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID))
		wantReason(t, err, codes.Unauthenticated, identityv1.Reason_PROCESS_CERTIFICATE_WRONG)
	})
}

func TestARevokedProcessDoesNotRenew(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))
	if err := store.Remove(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	_, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID))
	wantReason(t, err, codes.Unauthenticated, identityv1.Reason_PROCESS_REVOKED)
	_, err = r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))
	wantReason(t, err, codes.Unauthenticated, identityv1.Reason_JOIN_TOKEN_UNKNOWN)
}

// A certificate that is denied would else be renewed into one that is not.
func TestADeniedCertificateRenewsNothing(t *testing.T) {
	store := join.Directory(t.TempDir())
	r := newRig(t, func(c *Config) { c.Join, c.Denied = store, deny.NewSet() })
	r.cfg.Denied.Replace(0, nil)
	p := newProc()
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), joinToken(t, store, batchID).Text()), p.request(batchID))))
	leaf := p.chain[0]
	spki := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for _, entry := range []deny.Entry{
		{Kind: deny.KindSerial, Value: leaf.SerialNumber.Text(16)},
		{Kind: deny.KindSPKI, Value: hex.EncodeToString(spki[:])},
		{Kind: deny.KindIssuer, Value: hex.EncodeToString(leaf.AuthorityKeyId)},
		{Kind: deny.KindID, Value: batchID},
	} {
		r.cfg.Denied.Replace(0, []deny.Entry{entry})
		_, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID))
		if reasonOf(err) != identityv1.Reason_DENIED {
			t.Errorf("%v: %v", entry, err)
		}
	}
	r.cfg.Denied.Replace(0, nil)
	if _, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID)); err != nil {
		t.Error(err)
	}
	r.cfg.Denied = deny.NewSet() // not known yet
	_, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID))
	wantReason(t, err, codes.Unavailable, identityv1.Reason_CA_NOT_READY)
}

// Whoever stole the key of an issuer forges certificates of processes with it. Once the CA
// has another issuer and the stolen one is denied, none of them may be renewed, whatever it
// says of its issuer.
func TestAForgeryOfADeniedIssuerRenewsNothing(t *testing.T) {
	dir := t.TempDir()
	store := join.Directory(t.TempDir())
	r := newRig(t, func(c *Config) {
		c.CA, c.Join, c.Denied = must(ca.Open(dir, ca.Options{TrustDomain: td})), store, deny.NewSet()
	})
	token := joinToken(t, store, batchID)
	p := newProc()
	r.cfg.Denied.Replace(0, nil)
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))

	block, _ := pem.Decode(must(os.ReadFile(filepath.Join(dir, ca.RootKeyFile))))
	rootKey := must(x509.ParsePKCS8PrivateKey(block.Bytes))
	stolen := newProc()
	template := *p.chain[1]
	template.SerialNumber, template.SubjectKeyId = big.NewInt(7), []byte("stolen")
	issuer := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &template, r.cfg.CA.Roots()[0], stolen.key.Public(), rootKey))))
	claimed := *issuer
	claimed.SubjectKeyId = p.chain[1].SubjectKeyId // the forgery names the CA's issuer
	thief := newProc()
	leaf := *p.chain[0]
	leaf.SerialNumber = big.NewInt(8)
	forged := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &leaf, &claimed, thief.key.Public(), stolen.key))))

	forgery := shown(t.Context(), forged, issuer)
	if _, err := r.CreateCertificate(forgery, newProc().request(batchID)); err != nil {
		t.Fatalf("before it is denied: %v", err)
	}
	r.cfg.Denied.Replace(0, []deny.Entry{{Kind: deny.KindIssuer, Value: hex.EncodeToString(issuer.SubjectKeyId)}})
	if _, err := r.CreateCertificate(forgery, newProc().request(batchID)); reasonOf(err) != identityv1.Reason_DENIED {
		t.Errorf("renewed by a forgery: %v", err)
	}
	if _, err := r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// A store that cannot be read may hold a revocation: nobody is let in.
func TestAStoreThatCannotTellAdmitsNobody(t *testing.T) {
	r, store := joining(t)
	token := joinToken(t, store, batchID)
	p := newProc()
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))
	r.cfg.Join = mute{store}
	for name, ctx := range map[string]context.Context{
		"by token": withToken(t.Context(), token.Text()), "by certificate": shown(t.Context(), p.chain...),
	} {
		_, err := r.CreateCertificate(ctx, p.request(batchID))
		t.Run(name, func(t *testing.T) { wantReason(t, err, codes.Unavailable, identityv1.Reason_CA_NOT_READY) })
	}
}

type mute struct{ join.Store }

func (mute) Find(context.Context, string) (join.Record, error) {
	return join.Record{}, errors.New("disk: input/output error")
}

// A node's token counts, whatever certificate the connection shows.
func TestANodesTokenCountsBesideACertificate(t *testing.T) {
	r, store := joining(t)
	p := newProc()
	p.take(t, must(r.CreateCertificate(withToken(t.Context(), joinToken(t, store, batchID).Text()), p.request(batchID))))
	ctx := shown(withToken(t.Context(), goodToken(t)), p.chain...)
	if _, err := r.CreateCertificate(ctx, p.request(webID)); err != nil {
		t.Error(err)
	}
	_, err := r.CreateCertificate(ctx, p.request(batchID))
	wantStatus(t, err, codes.PermissionDenied, "legacy/batch")
}

// Over a real connection: crypto/tls alone proves that the client holds the key.
func TestAProcessRenewsOverMutualTLS(t *testing.T) {
	r, store := joining(t)
	addr, _ := serve(t, r)
	token := joinToken(t, store, batchID)
	p := newProc()
	client := dial(t, addr, trusting(r))
	response, err := client.CreateCertificate(outgoing(t, token.Text()), p.request(batchID))
	if err != nil {
		t.Fatal(err)
	}
	p.take(t, response)

	if _, err := client.CreateCertificate(t.Context(), newProc().request(batchID)); reasonOf(err) != identityv1.Reason_TOKEN_MALFORMED {
		t.Errorf("without a certificate or token: %v", err)
	}
	with := func(key crypto.PrivateKey) identityv1.IstioCertificateServiceClient {
		config := trusting(r)
		cert := tls.Certificate{PrivateKey: key}
		for _, c := range p.chain {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return dial(t, addr, config)
	}
	if _, err := with(p.key).CreateCertificate(t.Context(), newProc().request(batchID)); err != nil {
		t.Errorf("by its certificate: %v", err)
	}
	if _, err := with(newProc().key).CreateCertificate(t.Context(), newProc().request(batchID)); err == nil {
		t.Error("by a certificate without its key")
	}
}
