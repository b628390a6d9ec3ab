// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

const endpointPort = 15016

// federation is a mesh whose CA reads a file of other trust domains.
type federation struct {
	*story
	file   string // of the federations
	number int    // of the list in it
	server *lab.Pod
}

func tellOfFederation(t *testing.T) *federation {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "federation.yaml")
	if err := os.WriteFile(file, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := tellAlone(t, lab.Options{IdentityArgs: []string{"-federation", file, "-federation-state", filepath.Join(dir, "state")}}, "mesh")
	f := &federation{s, file, 0, s.pod(s.two, "server", nil)}
	f.serve(f.server.Place, agent.Echo, 8080)
	return f
}

// neighbour starts the CA of another trust domain, which gives its bundle to others.
func (f *federation) neighbour(name string, host int, args ...string) *lab.Identity {
	f.Helper()
	args = append([]string{"-bundle-endpoint", fmt.Sprintf(":%d", endpointPort), "-bundle-refresh-hint", "5s"}, args...)
	i, err := f.StartIdentity(f.ctx, lab.IdentityOptions{Name: name, Host: host, TrustDomain: name + ".example", Args: args})
	f.must(err)
	return i
}

func entry(i *lab.Identity, td, more string) string {
	return fmt.Sprintf("- {trustDomain: %s, url: 'https://%v:%d/', %s}\n", td, i.Addr.Addr(), endpointPort, more)
}

func bySPIFFE(i *lab.Identity, td string) string {
	return entry(i, td, fmt.Sprintf("profile: https_spiffe, endpointSPIFFEID: 'spiffe://%s/culvert/identity', bundleFile: %q", td, i.Root))
}

// with has the CA federate with the domains of entries.
func (f *federation) with(entries ...string) {
	f.Helper()
	f.number++
	list := fmt.Sprintf("number: %d\ndomains:\n%s\n", f.number, strings.Join(entries, ""))
	f.must(os.WriteFile(f.file+".new", []byte(list), 0o600))
	f.must(os.Rename(f.file+".new", f.file))
}

// knows is how many roots of a domain the server's node verifies by.
func (f *federation) knows(td string) int { return f.knowsAt(f.two, td) }

func (f *federation) knowsAt(n *lab.Node, td string) int {
	f.Helper()
	for _, d := range f.following(n).Federated {
		if d.TrustDomain == td {
			return d.Roots
		}
	}
	return 0
}

// guest is a peer outside the cluster with a certificate of another trust domain's CA.
func (f *federation) guest(i *lab.Identity, id string) *hbone.Pool {
	f.Helper()
	cert, _, err := i.Mint(id, time.Hour)
	f.must(err)
	pool := hbone.NewPool(hbone.PoolConfig{
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			conn, err := f.Outside.DialUnsteered(ctx, to)
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
		Credential: func(context.Context, hbone.Key) (hbone.Credential, error) {
			return hbone.Credential{Config: &tls.Config{
				Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
				InsecureSkipVerify: true, // the guest's view is not told here
			}}, nil
		},
	})
	f.Cleanup(func() { pool.Close() })
	return pool
}

// visit opens a stream to the server's app.
func (f *federation) visit(guest *hbone.Pool) (*hbone.Stream, error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, 20*time.Second)
	defer cancel()
	key := hbone.Key{Dst: spiffeid.RequireFromString(f.server.SPIFFEID("cluster.local")), Addr: f.server.At("tcp4", 15008)}
	return guest.Open(ctx, key, hbone.Target{Authority: f.server.At("tcp4", 8080)})
}

// comes lets a guest in once.
func (f *federation) comes(when string, guest *hbone.Pool) {
	f.Helper()
	stream, err := f.visit(guest)
	if err != nil {
		f.Fatalf("%s: %v", when, err)
	}
	stream.Reset()
}

// turnedAway wants a guest refused: by policy with a status, or before with none.
func (f *federation) turnedAway(when string, guest *hbone.Pool, byPolicy bool) {
	f.Helper()
	stream, err := f.visit(guest)
	if err == nil {
		stream.Reset()
	}
	var status *hbone.StatusError
	if is := errors.As(err, &status) && status.Code == http.StatusUnauthorized; err == nil || is != byPolicy {
		f.Errorf("%s: %v, want it refused by policy: %v", when, err, byPolicy)
	}
}

// Two trust domains exchange bundles. A workload of the other one is let in by a policy that
// names it, and by nothing else; its CA's root rotates, its endpoint goes away, and nobody is
// refused for that; when the federation ends, what is open ends as denied.
func TestAWorkloadOfAnotherTrustDomainIsLetInByAPolicyThatNamesIt(t *testing.T) {
	f := tellOfFederation(t)
	const id = "spiffe://other.example/ns/shop/sa/web"
	other := f.neighbour("other", 101)
	guest := f.guest(other, id)
	f.turnedAway("before the federation", guest, false)
	f.record(f.two, "direction", "inbound", "result", "tls", "error", "")

	f.with(bySPIFFE(other, "other.example"))
	f.eventually("the node knows the other domain's root", func() bool { return f.knows("other.example") == 1 })
	if got := f.following(f.two).FederatedNumber; got != f.number {
		f.Errorf("the node goes by list %d, want %d", got, f.number)
	}
	f.turnedAway("without a policy", guest, true)
	f.record(f.two, "direction", "inbound", "src.identity", id, "result", "denied",
		"error", "connection closed due to policy rejection: the peer is of the trust domain other.example, and no AuthorizationPolicy names it")
	f.crowds(other)
	for _, rules := range []string{`{}`, `{from: [{source: {principals: ["*"]}}]}`, `{from: [{source: {namespaces: [shop]}}]}`, `{from: [{source: {notTrustDomains: [cluster.local]}}]}`} {
		f.authorize("server", "rule", "action: ALLOW, rules: ["+rules+"]")
		f.turnedAway(rules, guest, true)
	}
	f.authorize("server", "rule", `action: ALLOW, rules: [{from: [{source: {principals: ["other.example/ns/shop/sa/web"]}}]}]`)
	f.comes("by a policy that names it", guest)
	f.record(f.two, "direction", "inbound", "src.identity", id, "path", "tunnel", "result", "reset")
	f.turnedAway("another of the domain", f.guest(other, "spiffe://other.example/ns/shop/sa/api"), true)

	f.rotates(other, id)
	guest = f.guest(other, id)

	f.must(other.Stop(f.ctx))
	f.eventually("the CA says that the endpoint is away", func() bool {
		_, text, err := f.Identity.Get(f.ctx, "/metrics")
		return err == nil && strings.Contains(text, `culvert_identity_federation_failing{trust_domain="other.example"} 1`)
	})
	f.comes("while the endpoint is away", guest)
	f.must(f.Identity.Stop(f.ctx))
	f.must(f.Identity.Start(f.ctx))
	f.eventually("the node hears the CA again", func() bool { return f.following(f.two).Connected })
	f.comes("after the CA was restarted without the endpoint", guest)

	f.with("- {trustDomain: cluster.local, url: 'https://127.0.0.1:1/', profile: https_web}\n")
	f.eventually("a file that names our own domain is refused", func() bool {
		_, text, err := f.Identity.Get(f.ctx, "/metrics")
		return err == nil && strings.Contains(text, `culvert_identity_not_understood{what="federation"} 1`)
	})
	f.comes("after a file that is wrong", guest)

	stream, err := f.visit(guest)
	f.must(err)
	defer stream.Reset()
	cut := f.cutOff(id)
	f.with("  []")
	f.eventually("what was open ended as denied", func() bool { return f.cutOff(id) > cut })
	f.eventually("the node knows the domain no more", func() bool { return f.knows("other.example") == 0 })
	f.turnedAway("after the federation", f.guest(other, id), false)
}

// crowds has more peers of a domain that no policy names than it has places, beside one.
func (f *federation) crowds(other *lab.Identity) {
	f.Helper()
	const places = 16
	for i := range places {
		f.turnedAway("one of many that no policy names", f.guest(other, fmt.Sprintf("spiffe://other.example/ns/shop/sa/made-%d", i)), i < places-1)
	}
	f.record(f.two, "direction", "inbound", "result", "limit", "error", "")
}

// succession is a CA of another trust domain whose root is replaced, in three steps.
type succession struct {
	f           *federation
	other       *lab.Identity
	dir, second string // of the CA's files, and of those that follow
	first       []byte // root
}

func (f *federation) succeeds(other *lab.Identity) *succession {
	f.Helper()
	s := &succession{f: f, other: other, dir: filepath.Dir(other.Root), second: filepath.Join(f.TempDir(), "second")}
	var err error
	s.first, err = os.ReadFile(other.Root)
	f.must(err)
	_, err = ca.Open(s.second, ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("other.example")})
	f.must(err)
	return s
}

func (s *succession) read(name string) []byte {
	s.f.Helper()
	text, err := os.ReadFile(filepath.Join(s.second, name))
	s.f.must(err)
	return text
}

func (s *succession) put(name string, text []byte) {
	s.f.Helper()
	path := filepath.Join(s.dir, name)
	s.f.must(os.WriteFile(path+".next", text, 0o600))
	s.f.must(os.Rename(path+".next", path))
}

func (s *succession) addRoot() {
	s.f.Helper()
	s.f.must(os.Remove(filepath.Join(s.dir, "root.key")))
	s.put("root.pem", bytes.Join([][]byte{s.first, s.read("root.pem")}, nil))
}

// sign has the CA sign by an issuer of the next root.
func (s *succession) sign() {
	s.f.Helper()
	s.put("issuer.key", s.read("issuer.key"))
	s.put("issuer.pem", s.read("issuer.pem"))
	s.f.eventually("the other CA takes the issuer", func() bool {
		_, text, err := s.other.Get(s.f.ctx, "/metrics")
		return err == nil && strings.Contains(text, `{event="IssuerUpdated"} 1`)
	})
}

func (s *succession) dropRoot() { s.put("root.pem", s.read("root.pem")) }

// rotates replaces the root of another trust domain's CA while its workloads come and go.
func (f *federation) rotates(other *lab.Identity, id string) {
	f.Helper()
	next := f.succeeds(other)
	former := f.guest(other, id)
	stream, err := f.visit(former)
	f.must(err)
	defer stream.Reset()
	cut := f.cutOff(id)
	next.addRoot()
	f.eventually("the node knows both roots", func() bool { f.comes("while a root comes", former); return f.knows("other.example") == 2 })
	next.sign()
	f.comes("by the next issuer", f.guest(other, id))
	f.comes("by the former one", former)
	next.dropRoot()
	f.eventually("the node knows the next root alone", func() bool { return f.knows("other.example") == 1 })
	f.comes("when the former root has gone", f.guest(other, id))
	if f.cutOff(id) != cut { // a younger tunnel of the same peer proves it
		f.Errorf("what was open ended while the root rotated")
	}
}

// cutOff is how many connections of a peer ended as denied, and not by a policy.
func (f *federation) cutOff(id string) (n int) {
	f.Helper()
	records, err := f.two.Records()
	f.must(err)
	for _, r := range records {
		if r.Get("src.identity") == id && r.Get("result") == "denied" && !strings.Contains(r.Get("error"), "policy rejection") {
			n++
		}
	}
	return n
}

// By the profile https_web the endpoint proves its name; the bundle vouches for its own domain,
// and not for a third one with which there is a federation, too.
func TestABundleThatComesByTheWebVouchesForItsOwnDomain(t *testing.T) {
	f := tellOfFederation(t)
	at := netip.AddrPortFrom(f.Identity.Addr.Addr().Next(), 0).Addr() // of host 101
	dir := f.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	f.selfSigned(at, cert, key)
	web := f.neighbour("web", 101, "-bundle-endpoint-cert", cert, "-bundle-endpoint-key", key)
	other := f.neighbour("other", 102)
	if web.Addr.Addr() != at {
		t.Fatalf("host 101 is %v, want %v", web.Addr.Addr(), at)
	}
	f.with(entry(web, "web.example", fmt.Sprintf("profile: https_web, rootsFile: %q", cert)), bySPIFFE(other, "other.example"))
	f.eventually("the node knows both domains", func() bool { return f.knows("web.example") == 1 && f.knows("other.example") == 1 })
	f.authorize("server", "rule", `action: ALLOW, rules: [{from: [{source: {trustDomains: [web.example]}}]}]`)
	f.comes("a peer of the web's domain", f.guest(web, "spiffe://web.example/ns/shop/sa/web"))
	f.turnedAway("a peer of the other domain", f.guest(other, "spiffe://other.example/ns/shop/sa/web"), true)

	// The bundles change places: neither is taken, since a root says of which domain it is.
	f.with(entry(web, "other.example", fmt.Sprintf("profile: https_web, rootsFile: %q", cert)))
	f.eventually("the bundle of another domain is refused", func() bool {
		_, text, err := f.Identity.Get(f.ctx, "/metrics")
		return err == nil && strings.Contains(text, `culvert_identity_federation_failing{trust_domain="other.example"} 1`)
	})
	f.eventually("the node knows that domain no more", func() bool { return f.knows("web.example") == 0 })
	f.turnedAway("a peer of the domain that has gone", f.guest(web, "spiffe://web.example/ns/shop/sa/web"), false)
}

// selfSigned writes a certificate for an address, and its key.
func (f *federation) selfSigned(at netip.Addr, certFile, keyFile string) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{at.AsSlice()}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	f.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	f.must(err)
	f.must(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	f.must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}
