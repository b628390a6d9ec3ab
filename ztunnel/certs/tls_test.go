// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// ends is how a handshake and the first byte from the server went.
type ends struct {
	server, client       tls.ConnectionState
	serverErr, clientErr error
	bytes                int // that the client wrote and read
}

// shake runs over a socket, not over net.Pipe: a side that refuses in the
// middle of the other's flight has to get its alert out.
func shake(t testing.TB, server, client *tls.Config) ends {
	t.Helper()
	var e ends
	a, b := connected(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer a.Close()
		conn := tls.Server(a, server)
		if e.serverErr = conn.Handshake(); e.serverErr == nil {
			e.server = conn.ConnectionState()
			_, e.serverErr = conn.Write([]byte{1})
		}
	}()
	counted := &counting{Conn: b}
	conn := tls.Client(counted, client)
	if e.clientErr = conn.Handshake(); e.clientErr == nil {
		e.client = conn.ConnectionState()
		// With TLS 1.3 the server's refusal comes after the client's handshake.
		_, e.clientErr = io.ReadFull(conn, make([]byte, 1))
	}
	b.Close()
	<-done
	e.bytes = counted.bytes
	return e
}

// counting counts what it carries. One goroutine uses it.
type counting struct {
	net.Conn
	bytes int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes += n
	return n, err
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes += n
	return n, err
}

func connected(t testing.TB) (accepted, dialed net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if dialed, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return accepted, dialed
}

type (
	config = *tls.Config
	until  = func(tls.ConnectionState) time.Time
)

func server(t *testing.T, r *rig, id spiffeid.ID) (config, until) {
	t.Helper()
	c, u, err := r.Server(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c, u
}

func client(t *testing.T, r *rig, id, peer spiffeid.ID) (config, until) {
	t.Helper()
	c, u, err := r.Client(t.Context(), id, peer)
	if err != nil {
		t.Fatal(err)
	}
	return c, u
}

// twoNodes are two Stores under one CA; web lives on a, db on b.
func twoNodes(t *testing.T, tell func(t *testing.T, a, b *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		authority := newCA(t, td)
		a, b := newRig(t, authority, time.Hour), newRig(t, authority, time.Hour)
		hold(t, a, web)
		hold(t, b, db)
		synctest.Wait()
		tell(t, a, b)
	})
}

// A004-17: DNS names in a certificate are for others. To us a peer is who its SPIFFE ID
// says: db is db with the name of web, and never web.
func TestDNSNamesOfAPeerDecideNothing(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		key, err := newPrivateKey("")
		if err != nil {
			t.Fatal(err)
		}
		issued, err := r.issuer.ca.Issue(key.Public(), db, "", time.Hour, "web.shop.svc", "web-1.shop.pod")
		if err != nil {
			t.Fatal(err)
		}
		peer := &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{issued.Leaf, issued.Above[0].Raw}, PrivateKey: key}},
			ClientAuth:   tls.RequireAnyClientCert, NextProtos: []string{alpn},
		}
		ours, _ := client(t, r, web, db)
		if e := shake(t, peer, ours); e.clientErr != nil {
			t.Errorf("db is refused for its DNS names: %v", e.clientErr)
		}
		ours, _ = client(t, r, web, web)
		if e := shake(t, peer, ours); e.clientErr == nil || !strings.Contains(e.clientErr.Error(), db.String()) {
			t.Errorf("db with the DNS name of web, where web was expected: %v", e.clientErr)
		}
	})
}

func TestTwoNodesProveTheirPodsToEachOther(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, serverUntil := server(t, b, db)
		cc, clientUntil := client(t, a, web, db)
		var hello *tls.ClientHelloInfo
		sc.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { hello = h; return nil, nil }
		e := shake(t, sc, cc)
		if e.serverErr != nil || e.clientErr != nil {
			t.Fatalf("server %v, client %v", e.serverErr, e.clientErr)
		}
		for _, end := range []struct {
			state tls.ConnectionState
			peer  spiffeid.ID
			until time.Time
		}{{e.server, web, serverUntil(e.server)}, {e.client, db, clientUntil(e.client)}} {
			if got, err := identity.FromCertificate(end.state.PeerCertificates[0]); err != nil || got != end.peer {
				t.Errorf("peer %v, %v", got, err)
			}
			if n := len(end.state.PeerCertificates); n != 2 {
				t.Errorf("the peer sent %d certificates, want leaf and issuer, no root", n)
			}
			if end.state.Version != tls.VersionTLS13 || end.state.NegotiatedProtocol != "h2" || end.state.CurveID != tls.X25519MLKEM768 {
				t.Errorf("version %x, protocol %q, group %v", end.state.Version, end.state.NegotiatedProtocol, end.state.CurveID)
			}
			if want := a.leaf(web).NotAfter; !end.until.Equal(want) {
				t.Errorf("until %v, want %v", end.until, want)
			}
		}
		if hello.ServerName != "" {
			t.Errorf("SNI %q", hello.ServerName)
		}
	})
}

func TestTunnelEndsWithTheFirstThatExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: td, IssuerTTL: 40 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		long := newCA(t, td)
		both := append(short.Roots(), long.Roots()...)
		a, b := newRig(t, long, time.Hour), newRig(t, long, 10*time.Minute)
		c := newRig(t, short, time.Hour)
		for _, r := range []*rig{a, b, c} {
			r.issuer.roots = both
			hold(t, r, web)
		}
		synctest.Wait()
		for _, test := range []struct {
			name     string
			from, to *rig
			want     time.Duration
		}{
			{"own and peer live an hour", a, a, time.Hour},
			{"peer's leaf", a, b, 10 * time.Minute},
			{"own leaf", b, a, 10 * time.Minute},
			{"peer's issuer", a, c, 40 * time.Minute},
			{"own issuer", c, a, 40 * time.Minute},
		} {
			sc, serverUntil := server(t, test.to, web)
			cc, clientUntil := client(t, test.from, web, web)
			e := shake(t, sc, cc)
			if e.serverErr != nil || e.clientErr != nil {
				t.Fatalf("%s: server %v, client %v", test.name, e.serverErr, e.clientErr)
			}
			for _, got := range []time.Time{serverUntil(e.server), clientUntil(e.client)} {
				if time.Until(got) != test.want {
					t.Errorf("%s: until %v, want %v", test.name, time.Until(got), test.want)
				}
			}
			// Also when the pair did not verify that peer last.
			_, fresh := client(t, test.from, web, web)
			if got := fresh(e.client); time.Until(got) != test.want {
				t.Errorf("%s: asked later: until %v", test.name, time.Until(got))
			}
		}
		_, over := client(t, a, web, web)
		if got := over(tls.ConnectionState{}); got.IsZero() || got.After(time.Now()) {
			t.Errorf("nobody is proved until %v", got)
		}
	})
}

func TestPeerThatIsAnotherWorkloadIsRefused(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, _ := server(t, b, db)
		cc, _ := client(t, a, web, spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db2"))
		e := shake(t, sc, cc)
		if e.clientErr == nil || !strings.Contains(e.clientErr.Error(), "the peer is "+db.String()) {
			t.Errorf("client: %v", e.clientErr)
		}
		if e.serverErr == nil {
			t.Error("the server is content")
		}
	})
}

// A001-5: peers prove themselves by certificates of the CA.
func TestPeerWithoutACertificateIsRefused(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, _ := server(t, b, db)
		if e := shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); e.serverErr == nil || e.clientErr == nil {
			t.Errorf("server %v, client %v", e.serverErr, e.clientErr)
		}
	})
}

func TestHandshakeThatBeganBeforeTheLastPodWentFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := newCA(t, td)
		a, b := newRig(t, authority, time.Hour), newRig(t, authority, time.Hour)
		hold(t, b, db)
		release := a.Hold(web)
		synctest.Wait()
		sc, _ := server(t, b, db)
		cc, _ := client(t, a, web, db)
		release()
		e := shake(t, sc, cc)
		judge(t, "client", e.clientErr, errForgotten.Error(), false)
		judge(t, "server", e.serverErr, "", false)
	})
}

// CVE-2025-68121: a resumed session skipped what has changed since.
func TestNoSessionIsResumed(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		cache := tls.NewLRUClientSessionCache(8)
		for range 2 {
			sc, _ := server(t, b, db)
			cc, _ := client(t, a, web, db)
			cc.SessionTicketsDisabled, cc.ClientSessionCache, cc.ServerName = false, cache, "x"
			if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil || e.client.DidResume {
				t.Errorf("server %v, client %v, resumed %v", e.serverErr, e.clientErr, e.client.DidResume)
			}
		}
	})
}

func TestOldVersionsAndOtherProtocolsAreRefused(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		for name, spoil := range map[string]func(*tls.Config){
			"TLS 1.2":       func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
			"no ALPN":       func(c *tls.Config) { c.NextProtos = nil },
			"another ALPN":  func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
			"another group": func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} },
		} {
			sc, _ := server(t, b, db)
			cc, _ := client(t, a, web, db)
			spoil(cc)
			cc.VerifyConnection = nil
			if e := shake(t, sc, cc); e.serverErr == nil {
				t.Errorf("%s: the server accepts it", name)
			}
			sc, _ = server(t, b, db)
			cc, _ = client(t, a, web, db)
			spoil(sc)
			sc.VerifyConnection = nil
			if e := shake(t, sc, cc); e.clientErr == nil {
				t.Errorf("%s: the client accepts it", name)
			}
		}
	})
}

// crypto/tls chooses it where one side has no AES instructions, and lets nobody
// choose another; so ask the hook.
func TestChaCha20IsNoReasonToRefuse(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, _ := server(t, b, db)
		cc, _ := client(t, a, web, db)
		e := shake(t, sc, cc)
		for _, end := range []struct {
			config *tls.Config
			state  tls.ConnectionState
		}{{sc, e.server}, {cc, e.client}} {
			end.state.CipherSuite = tls.TLS_CHACHA20_POLY1305_SHA256
			if err := end.config.VerifyConnection(end.state); err != nil {
				t.Error(err)
			}
		}
	})
}

// rogue signs what the CA never would.
type rogue struct{ *certstest.Signer }

func newRogue() *rogue { return &rogue{certstest.NewCA()} }

// leaf is one for web as the CA makes them, from now for an hour, but for what
// spoil changes.
func (r *rogue) leaf(spoil func(*x509.Certificate)) *certstest.Signer {
	return r.Leaf(web, lasting(time.Hour), spoil)
}

// lasting changes a certificate to be valid from now on.
func lasting(ttl time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now(), time.Now().Add(ttl) }
}

func TestLeafThatProvesNoWorkloadIsRefusedByBothSides(t *testing.T) {
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, u := range list {
				parsed, _ := url.Parse(u)
				c.URIs = append(c.URIs, parsed)
			}
			if len(list) == 0 {
				c.DNSNames = []string{"web.shop"}
			}
		}
	}
	for _, test := range []struct {
		name  string
		spoil func(*x509.Certificate)
		want  string // "" if it is fine
	}{
		{"good", func(*x509.Certificate) {}, ""},
		{"two URI SANs", uris(web.String(), db.String()), "2 URI SANs"},
		{"no URI SAN", uris(), "0 URI SANs"},
		{"foreign trust domain", uris("spiffe://example.org/ns/shop/sa/web"), "example.org"},
		{"no workload", uris("spiffe://cluster.local/ns/shop/sa/web/x"), ""},
		{"no SPIFFE ID", uris("https://cluster.local/ns/shop/sa/web"), "scheme"},
		{"authority", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, "authority"},
		{"may sign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, "authority"},
		{"expired", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-time.Hour), c.NotBefore.Add(-time.Second)
		}, "expired"},
		{"from the future", func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Minute) }, "expired or is not yet valid"},
		{"wrong usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, "usage"},
	} {
		t.Run(test.name, func(t *testing.T) {
			story(t, func(t *testing.T, r *rig) {
				other := newRogue()
				r.issuer.set(func() { r.issuer.roots = append(r.issuer.ca.Roots(), other.Cert) })
				hold(t, r, db)
				synctest.Wait()
				cert := other.leaf(test.spoil).TLS()

				sc, _ := server(t, r, db)
				e := shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}})
				judge(t, "server", e.serverErr, test.want, test.name == "good")

				cc, _ := client(t, r, db, web)
				e = shake(t, &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}, cc)
				judge(t, "client", e.clientErr, test.want, test.name == "good")
			})
		})
	}
}

func judge(t *testing.T, side string, err error, want string, ok bool) {
	t.Helper()
	if (err == nil) != ok {
		t.Errorf("%s: %v", side, err)
	}
	if err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v does not say %q", side, err, want)
	}
}

func TestEachSideWantsItsOwnUsage(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		other := newRogue()
		r.issuer.set(func() { r.issuer.roots = append(r.issuer.ca.Roots(), other.Cert) })
		hold(t, r, db)
		synctest.Wait()
		only := func(usage x509.ExtKeyUsage) tls.Certificate {
			return other.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{usage} }).TLS()
		}
		for usage, asClient := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: false} {
			sc, _ := server(t, r, db)
			e := shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{only(usage)}})
			judge(t, "server", e.serverErr, "usage", asClient)
			cc, _ := client(t, r, db, web)
			e = shake(t, &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{only(usage)}, ClientAuth: tls.RequireAnyClientCert}, cc)
			judge(t, "client", e.clientErr, "usage", !asClient)
		}
	})
}

// CVE-2025-68121: a root that was dropped proves nothing in the next handshake.
func TestRootThatIsNotInTheBundleProvesNothing(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		cert := newRogue().leaf(untouched).TLS()
		sc, _ := server(t, b, db)
		e := shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}})
		judge(t, "server", e.serverErr, "unknown authority", false)

		// Dropped while a Config made before is in use: refused by it, too.
		sc, _ = server(t, b, db)
		b.say(t, 1, newCA(t, td).Roots())
		cc, _ := client(t, a, web, db)
		e = shake(t, sc, cc)
		judge(t, "server", e.serverErr, "unknown authority", false)
	})
}

func TestLongChainsAreNotLookedAt(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		certs := slices.Repeat([]*x509.Certificate{r.leaf(web)}, maxChain+1)
		for _, certs := range [][]*x509.Certificate{certs, nil} {
			if _, err := verifyChain(certs, r.roots(), x509.ExtKeyUsageClientAuth, time.Now()); err == nil {
				t.Errorf("%d certificates are verified", len(certs))
			}
		}
	})
}

func TestCrossSignedPeerIsProvedForAsLongAsItsLastChain(t *testing.T) {
	now := time.Now()
	cert := func(d time.Duration) *x509.Certificate { return &x509.Certificate{NotAfter: now.Add(d)} }
	got := chainsUntil([][]*x509.Certificate{
		{cert(3 * time.Hour), cert(time.Hour)},
		{cert(3 * time.Hour), cert(5 * time.Hour), cert(2 * time.Hour)},
	})
	if want := now.Add(2 * time.Hour); !got.Equal(want) {
		t.Errorf("until %v, want %v", got, want)
	}
}

func BenchmarkHandshake(b *testing.B) {
	for _, kind := range identity.KeyKinds {
		b.Run(string(kind), func(b *testing.B) { benchmarkHandshake(b, kind) })
	}
}

// benchmarkHandshake shakes hands under a hierarchy of one kind of keys. bytes/op are those
// of both ways.
func benchmarkHandshake(b *testing.B, kind identity.KeyKind) {
	authority, err := ca.Open(b.TempDir(), ca.Options{TrustDomain: td, Keys: kind})
	if err != nil {
		b.Fatal(err)
	}
	store := New(Config{TrustDomain: td, Log: quiet, Issuer: &issuer{ca: authority}, Keys: kind})
	ctx := b.Context()
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	b.Cleanup(func() { <-done })
	b.Cleanup(store.Hold(web))
	bytes := 0
	for b.Loop() {
		sc, _, err := store.Server(ctx, web)
		if err != nil {
			b.Fatal(err)
		}
		cc, _, err := store.Client(ctx, web, web)
		if err != nil {
			b.Fatal(err)
		}
		e := shake(b, sc, cc)
		if e.clientErr != nil || e.serverErr != nil {
			b.Fatal(e.clientErr, e.serverErr)
		}
		bytes += e.bytes
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "bytes/op")
}
