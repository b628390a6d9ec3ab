// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

var (
	webEntry = entry{web, []selector{"ns:shop", "sa:web"}}
	dbEntry  = entry{db, []selector{"ns:shop", "sa:db"}}
)

// leaf is the certificate by which a pod of id proves itself now.
func leaf(t *testing.T, n *node, id spiffeid.ID) *x509.Certificate {
	t.Helper()
	config, _, err := n.Server(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// shake has a pod of web open a tunnel to one of db.
func shake(t *testing.T, n *node) error {
	t.Helper()
	serverConfig, _, err := n.Server(t.Context(), db)
	if err != nil {
		return err
	}
	clientConfig, _, err := n.Client(t.Context(), web, db)
	if err != nil {
		return err
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		server := tls.Server(a, serverConfig)
		_, err := server.Write([]byte{1})
		done <- err
	}()
	if _, err := io.ReadFull(tls.Client(b, clientConfig), make([]byte, 1)); err != nil {
		return err
	}
	return <-done
}

// A004-2, A004-6: pods prove themselves by SVIDs of SPIRE's, and each replacement is taken
// at once, while tunnels are made all the time and none fails.
func TestPodsHaveSPIREsIdentitiesThroughTenRotations(t *testing.T) {
	a := newAgent(t, newCA(t, td), webEntry, dbEntry)
	n := newNode(t, a)
	t.Cleanup(n.Hold(web))
	t.Cleanup(n.Hold(db))
	waitFor(t, "both SVIDs", func() bool { return n.Certificate(web).State == certs.Valid && n.Certificate(db).State == certs.Valid })
	if err := shake(t, n); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "SPIRE's agent signs", func() bool { return n.Standing().Reason == certs.Signs })
	for round := range 10 {
		before, rotated := leaf(t, n, web), n.rotations()
		a.rotate()
		waitFor(t, "both are replaced", func() bool {
			if err := shake(t, n); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			return n.rotations() == rotated+2
		})
		if leaf(t, n, web).Equal(before) {
			t.Errorf("round %d: it still shows the former SVID", round)
		}
	}
	if s := n.Stats(); s.Held[certs.Valid] != 2 || len(s.Failed) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhatIsValidStaysWhileSPIREIsAway(t *testing.T) {
	a := newAgent(t, newCA(t, td), webEntry, dbEntry)
	n := newNode(t, a)
	t.Cleanup(n.Hold(web))
	t.Cleanup(n.Hold(db))
	waitFor(t, "both SVIDs", func() bool { return n.Certificate(web).State == certs.Valid && n.Certificate(db).State == certs.Valid })
	if err := shake(t, n); err != nil {
		t.Fatal(err)
	}
	before := leaf(t, n, web)
	a.stop()
	waitFor(t, "the end of the stream", func() bool { return !n.Following().Connected && a.streams(web) == 0 })
	if err := shake(t, n); err != nil {
		t.Errorf("SPIRE is away: %v", err)
	}
	if !leaf(t, n, web).Equal(before) || n.Certificate(web).State != certs.Valid {
		t.Errorf("the SVID did not stay: %+v", n.Certificate(web))
	}
	// Its successor has other SVIDs.
	a.rotate()
	a.start(t)
	waitFor(t, "the SVID of the agent that is back", func() bool { return !leaf(t, n, web).Equal(before) })
	waitFor(t, "the bundle's stream", func() bool { return n.Following().Connected })
}

// A004-10: both names stand in the refusal.
func TestAnotherTrustDomainIsNamedWithBoth(t *testing.T) {
	other := spiffeid.RequireTrustDomainFromString("example.org")
	a := newAgent(t, newCA(t, other), entry{spiffeid.RequireFromPath(other, "/ns/shop/sa/web"), webEntry.selectors})
	a.set(func() { a.self = spiffeid.RequireFromPath(other, self.Path()) })
	n := newNode(t, a)
	t.Cleanup(n.Hold(web))
	waitFor(t, "a refusal", func() bool {
		return n.Standing().Reason == certs.TrustDomain && n.Certificate(web).Error != "" && n.Following().Problem != ""
	})
	for from, text := range map[string]string{"Standing": n.Standing().Problem, "Certificate": n.Certificate(web).Error, "Following": n.Following().Problem} {
		if !strings.Contains(text, "example.org") || !strings.Contains(text, `"cluster.local"`) {
			t.Errorf("%s: %s", from, text)
		}
	}
}

func TestANodeThatIsNoDelegateIsToldWhatToDo(t *testing.T) {
	a := newAgent(t, newCA(t, td), webEntry)
	a.set(func() { a.delegate = false })
	n := newNode(t, a)
	waitFor(t, "a refusal", func() bool { return n.Standing().Reason == certs.NotDelegate })
	if got := n.Standing().Problem; !strings.Contains(got, "authorized_delegates") || !strings.Contains(got, self.String()) {
		t.Error(got)
	}
	a.set(func() { a.self = spiffeid.ID{} })
	waitFor(t, "the lack of an entry", func() bool { return strings.Contains(n.Standing().Problem, "gives this ztunnel no identity") })
	a.set(func() { a.self, a.delegate = self, true })
	waitFor(t, "SPIRE's agent to sign", func() bool { return n.Standing().Reason == certs.Signs })
}

// An entry may come after its pod. The stream says when; nobody asks again and again.
func TestAnEntryThatIsMissingIsNamedAndTakenWhenItComes(t *testing.T) {
	a := newAgent(t, newCA(t, td))
	n := newNode(t, a)
	t.Cleanup(n.Hold(web))
	waitFor(t, "a refusal", func() bool { return n.Certificate(web).Error != "" })
	if got := n.Certificate(web).Error; !strings.Contains(got, "no registration entry for spiffe://cluster.local/ns/shop/sa/web") || !strings.Contains(got, "k8s:node-name:node-1, k8s:ns:shop, k8s:sa:web") {
		t.Error(got)
	}
	if n.Standing().Reason == certs.NoEntry {
		t.Error("what one pod lacks is said of the node")
	}
	a.set(func() {
		a.entries = append(a.entries, entry{spiffeid.RequireFromPath(td, "/ns/shop/sa/other"), webEntry.selectors})
	})
	waitFor(t, "the wrong name", func() bool {
		return strings.Contains(n.Certificate(web).Error, "SPIRE gives spiffe://cluster.local/ns/shop/sa/other for the pods of")
	})
	a.set(func() { a.entries = append(a.entries, webEntry) })
	waitFor(t, "the SVID", func() bool { return n.Certificate(web).State == certs.Valid })
}

// spire-controller-manager makes an entry for each pod, by its UID.
func TestEntriesOfPodsFollowThePods(t *testing.T) {
	first, second := Pod{UID: "u1", Name: "web-1", Labels: map[string]string{"app": "web"}}, Pod{UID: "u2", Name: "web-2"}
	a := newAgent(t, newCA(t, td), entry{web, []selector{"pod-uid:u1", "pod-label:app:web", "pod-name:web-1"}})
	n := newNode(t, a)
	n.place(web, first)
	t.Cleanup(n.Hold(web))
	waitFor(t, "the SVID of the first pod", func() bool { return n.Certificate(web).State == certs.Valid })
	before := leaf(t, n, web)

	n.place(web, first, second)
	a.set(func() { a.entries = append(a.entries, entry{web, []selector{"pod-uid:u2"}}) })
	n.place(web, second)
	a.set(func() { a.entries[0].selectors = []selector{"pod-uid:gone"} })
	waitFor(t, "the SVID of the second pod", func() bool { return !leaf(t, n, web).Equal(before) })

	// Of several that name it, the one in use stays.
	inUse := leaf(t, n, web)
	a.set(func() { a.entries = append(a.entries, entry{web, []selector{"pod-uid:u2"}}) })
	a.set(func() { delete(a.svids, 2) })
	if s := a.streams(web); s < 1 || !leaf(t, n, web).Equal(inUse) {
		t.Errorf("%d streams, another SVID: %v", s, !leaf(t, n, web).Equal(inUse))
	}
}

func TestTheBundleIsTheAgents(t *testing.T) {
	authority, next := newCA(t, td), newCA(t, td)
	a := newAgent(t, authority, webEntry, dbEntry)
	n := newNode(t, a)
	t.Cleanup(n.Hold(web))
	t.Cleanup(n.Hold(db))
	waitFor(t, "both SVIDs", func() bool { return n.Certificate(web).State == certs.Valid && n.Certificate(db).State == certs.Valid })
	if err := shake(t, n); err != nil {
		t.Fatal(err)
	}
	if f := n.Following(); f.Generation != 1 || f.Roots != 1 {
		t.Errorf("%+v", f)
	}
	a.set(func() { a.roots = append(authority.Roots(), next.Roots()...) })
	waitFor(t, "two roots", func() bool { f := n.Following(); return f.Generation == 2 && f.Roots == 2 })
	if err := shake(t, n); err != nil {
		t.Error(err)
	}
	// Another authority signs, and then the first root goes.
	a.set(func() { a.ca = next; clear(a.svids) })
	waitFor(t, "SVIDs of the other authority", func() bool { return n.rotations() == 2 })
	a.set(func() { a.roots = next.Roots() })
	waitFor(t, "one root", func() bool { f := n.Following(); return f.Generation == 3 && f.Roots == 1 })
	if err := shake(t, n); err != nil {
		t.Error(err)
	}
}

func TestAnIdentityThatNobodyHoldsHasNoStream(t *testing.T) {
	a := newAgent(t, newCA(t, td), webEntry)
	n := newNode(t, a)
	release := n.Hold(web)
	waitFor(t, "the SVID", func() bool { return n.Certificate(web).State == certs.Valid && a.streams(web) == 1 })
	release()
	waitFor(t, "the end of the stream", func() bool { return a.streams(web) == 0 })
	t.Cleanup(n.Hold(web))
	waitFor(t, "the SVID again", func() bool { return n.Certificate(web).State == certs.Valid && a.streams(web) == 1 })
}

func TestAnAnswerThatIsNoneIsRefused(t *testing.T) {
	good := mint(newCA(t, td), web)
	c := &Client{cfg: Config{TrustDomain: td}}
	for _, tc := range []struct {
		change func(*delegatedv1.X509SVIDWithKey)
		want   string
	}{
		{func(s *delegatedv1.X509SVIDWithKey) { s.X509Svid.CertChain = nil }, "a chain of 0 certificates"},
		{func(s *delegatedv1.X509SVIDWithKey) { s.X509Svid.CertChain = make([][]byte, 9) }, "a chain of 9 certificates"},
		{func(s *delegatedv1.X509SVIDWithKey) { s.X509Svid.CertChain = [][]byte{{1}} }, "no readable SVID"},
		{func(s *delegatedv1.X509SVIDWithKey) { s.X509Svid = nil }, "a chain of 0 certificates"},
	} {
		one := mint(newCA(t, td), web)
		tc.change(one)
		svids, err := parse(&delegatedv1.SubscribeToX509SVIDsResponse{X509Svids: []*delegatedv1.X509SVIDWithKey{one}})
		if problem := c.missing(&subscription{id: web}, svids, err); choose(svids, web, nil) != nil || !strings.Contains(problem.Error(), tc.want) {
			t.Errorf("%v, want %q", problem, tc.want)
		}
		if one.X509SvidKey[0] != 0 {
			t.Errorf("%s: its key is still there", tc.want)
		}
	}
	// One that cannot be read does not take the others along.
	broken := mint(newCA(t, td), web)
	broken.X509Svid.CertChain = [][]byte{{1}}
	if svids, _ := parse(&delegatedv1.SubscribeToX509SVIDsResponse{X509Svids: []*delegatedv1.X509SVIDWithKey{broken, good}}); choose(svids, web, nil) == nil {
		t.Error("the good one is not taken")
	}
	for _, key := range [][]byte{nil, {1, 2, 3}} {
		if issued, err := (&svid{key: key}).issued(); err == nil {
			t.Errorf("%x is taken for a key: %v", key, issued.Key)
		}
	}
}

func TestAClientNeedsBothSockets(t *testing.T) {
	for _, cfg := range []Config{
		{AdminSocket: "/admin.sock", TrustDomain: td}, {WorkloadSocket: "/agent.sock", TrustDomain: td},
		{WorkloadSocket: "/agent.sock", AdminSocket: "admin.sock", TrustDomain: td}, {WorkloadSocket: "/agent.sock", AdminSocket: "/admin.sock"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	c, err := New(Config{WorkloadSocket: filepath.Join(t.TempDir(), "agent.sock"), AdminSocket: filepath.Join(t.TempDir(), "admin.sock"), TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Check(t.Context()); err == nil || err.(*certs.Problem).Reason != certs.Unreachable {
		t.Errorf("nobody is there: %v", err)
	}
}
