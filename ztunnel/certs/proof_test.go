// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

const asClient, asServer = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth

// court is a bundle with one root that signs anything.
type court struct {
	*rogue
	*bundle
	now time.Time
}

func newCourt(t *testing.T) *court {
	t.Helper()
	// Its leaves are valid from the second on in which they are made, which may be the next.
	c := &court{rogue: newRogue(), now: time.Now().Add(time.Second)}
	c.bundle = mustBundle(t, c.Cert)
	return c
}

func mustBundle(t *testing.T, roots ...*x509.Certificate) *bundle {
	t.Helper()
	b, err := newBundle(roots, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// chain is a leaf for web that lasts from now for an hour, alone.
func (r *rogue) chain(spoil func(*x509.Certificate)) []*x509.Certificate {
	return certsOf(r.leaf(spoil))
}

func untouched(*x509.Certificate) {}

// remembered reports whether a chain is proved without looking at signatures:
// it is asked with a broken one.
func (c *court) remembered(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) bool {
	broken := *certs[0]
	broken.Signature = make([]byte, len(broken.Signature))
	certs = append([]*x509.Certificate{&broken}, certs[1:]...)
	_, err := c.prove(certs, usage, now)
	return err == nil
}

func TestChainIsVerifiedOnceUnderABundle(t *testing.T) {
	c := newCourt(t)
	chain := c.chain(untouched)
	if c.remembered(chain, asClient, c.now) {
		t.Fatal("a broken signature is accepted from somebody who was never here")
	}
	first, err := c.prove(chain, asClient, c.now)
	if err != nil {
		t.Fatal(err)
	}
	if first.id != web || !first.until.Equal(chain[0].NotAfter) {
		t.Errorf("%v until %v, want %v until %v", first.id, first.until, web, chain[0].NotAfter)
	}
	if !c.remembered(chain, asClient, c.now) {
		t.Error("verified again")
	}
	if again, err := c.prove(chain, asClient, c.now); err != nil || again != first {
		t.Errorf("another proof: %v, %v", again, err)
	}
}

func TestProofEndsWithTheFirstCertificateOfItsChain(t *testing.T) {
	c := newCourt(t)
	issuer := c.issuer(40 * time.Minute)
	for _, test := range []struct {
		name  string
		chain []*x509.Certificate
		last  time.Duration
	}{
		{"leaf", c.chain(untouched), time.Hour},
		{"issuer", append(issuer.chain(untouched), issuer.Cert), 40 * time.Minute},
	} {
		if _, err := c.prove(test.chain, asClient, c.now); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if !c.remembered(test.chain, asClient, test.chain[0].NotBefore.Add(test.last-time.Second)) {
			t.Errorf("%s: forgotten before it expires", test.name)
		}
		_, err := c.prove(test.chain, asClient, test.chain[0].NotBefore.Add(test.last+time.Second))
		judge(t, test.name, err, "expired", false)
	}
}

func TestProofDoesNotOutliveAClockThatJumps(t *testing.T) {
	c := newCourt(t)
	chain := c.chain(untouched)
	if _, err := c.prove(chain, asClient, c.now); err != nil {
		t.Fatal(err)
	}
	for _, jump := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		_, err := c.prove(chain, asClient, c.now.Add(jump))
		judge(t, jump.String(), err, "expired or is not yet valid", false)
		if c.remembered(chain, asClient, c.now) {
			t.Errorf("after a jump by %v and back it is not verified again", jump)
		}
		if _, err := c.prove(chain, asClient, c.now); err != nil {
			t.Errorf("after a jump by %v and back: %v", jump, err)
		}
	}
}

func TestProofForOneSideIsNoneForTheOther(t *testing.T) {
	c := newCourt(t)
	chain := c.chain(func(leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{asClient} })
	if _, err := c.prove(chain, asClient, c.now); err != nil {
		t.Fatal(err)
	}
	_, err := c.prove(chain, asServer, c.now)
	judge(t, "server", err, "usage", false)
}

func TestWhatIsRefusedIsNotRemembered(t *testing.T) {
	c := newCourt(t)
	stranger := newRogue()
	for name, chain := range map[string][]*x509.Certificate{
		"stranger":    stranger.chain(untouched),
		"no workload": c.chain(func(leaf *x509.Certificate) { leaf.URIs = nil }),
		"authority":   c.chain(func(leaf *x509.Certificate) { leaf.IsCA, leaf.KeyUsage = true, x509.KeyUsageCertSign }),
		"expired":     c.chain(func(leaf *x509.Certificate) { leaf.NotAfter = leaf.NotBefore }),
	} {
		for range 2 {
			if _, err := c.prove(chain, asClient, c.now.Add(time.Second)); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	}
	if n := len(c.proven); n != 0 {
		t.Errorf("%d of them remembered", n)
	}
}

func TestChainsOfOneLeafAreNotConfused(t *testing.T) {
	c := newCourt(t)
	issuer, other := c.issuer(time.Hour), c.issuer(time.Hour)
	leaf := issuer.chain(untouched)
	if _, err := c.prove(append(leaf, issuer.Cert), asClient, c.now); err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][]*x509.Certificate{
		"another issuer": append(leaf, other.Cert),
		"no issuer":      leaf,
	} {
		_, err := c.prove(chain, asClient, c.now)
		judge(t, name, err, "unknown authority", false)
	}
	if c.remembered(append(leaf, issuer.Cert, other.Cert), asClient, c.now) {
		t.Error("a longer chain passes for one that was verified")
	}
}

// issuer is an intermediate below the root.
func (c *court) issuer(ttl time.Duration) *rogue {
	template := certstest.Authority("", lasting(ttl))
	return &rogue{certstest.Mint(template, certstest.NewKey(elliptic.P256()), c.Signer)}
}

func TestRememberedPeerIsStillOnlyWhoItIs(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, _ := server(t, b, db)
		for range 2 {
			cc, _ := client(t, a, web, db)
			if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
				t.Fatalf("server %v, client %v", e.serverErr, e.clientErr)
			}
		}
		if n := len(a.roots().proven); n != 1 {
			t.Errorf("%d proofs after two handshakes with one peer", n)
		}
		cc, _ := client(t, a, web, web)
		e := shake(t, sc, cc)
		judge(t, "client", e.clientErr, "the peer is "+db.String(), false)

		a.cfg.TrustDomain = spiffeid.RequireTrustDomainFromString("example.org")
		sc, _ = server(t, a, web)
		cc, _ = client(t, b, db, web)
		e = shake(t, sc, cc)
		judge(t, "server", e.serverErr, "not of the trust domain", false)
	})
}

func TestRememberedPeerMustHoldItsKey(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, _ := server(t, b, db)
		cc, _ := client(t, a, web, db)
		if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
			t.Fatalf("server %v, client %v", e.serverErr, e.clientErr)
		}
		own := a.entries[web].current.certificate()
		thief := tls.Certificate{Certificate: own.Certificate, PrivateKey: newRogue().Key}
		e := shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &thief, nil
		}})
		judge(t, "server", e.serverErr, "invalid signature", false)
	})
}

func TestProofsGoWithTheBundle(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		handshake := func() ends {
			sc, _ := server(t, b, db)
			cc, _ := client(t, a, web, db)
			return shake(t, sc, cc)
		}
		if e := handshake(); e.serverErr != nil {
			t.Fatal(e.serverErr)
		}
		before := b.roots()
		pass(50 * time.Minute) // renewed, by the same roots
		if b.roots() != before || len(before.proven) != 1 {
			t.Errorf("the same roots again, and %d proofs are left", len(b.roots().proven))
		}

		other := newCA(t, td)
		for _, r := range []*rig{a, b} {
			r.issuer.set(func() { r.issuer.roots = append(r.issuer.ca.Roots(), other.Roots()...) })
			r.renewAll(time.Now(), "test")
		}
		pass(maxWait + clockCheck)
		if n := len(b.roots().proven); n != 0 {
			t.Errorf("%d proofs under roots that never vouched for them", n)
		}
		if e := handshake(); e.serverErr != nil {
			t.Fatal(e.serverErr)
		}
		if n := len(b.roots().proven); n != 1 {
			t.Errorf("%d proofs after a handshake", n)
		}

		b.issuer.set(func() { b.issuer.roots = other.Roots(); b.issuer.ca = other })
		b.say(t, 1, other.Roots())
		pass(maxChangeWait + clockCheck)
		judge(t, "server", handshake().serverErr, "unknown authority", false)
	})
}

func TestHundredThousandPeersTakeNoMoreThanTheirRoom(t *testing.T) {
	var ps proofs
	now := time.Now()
	for n := range uint64(100_000) {
		var key presented
		binary.BigEndian.PutUint64(key.sum[:], n)
		p := &proof{from: now, to: now.Add(time.Hour)}
		ps.add(key, p)
		if ps.find(key, now) != p {
			t.Fatal("the newest is not remembered")
		}
	}
	if n := len(ps.proven); n != maxProofs {
		t.Errorf("%d are remembered, the limit is %d", n, maxProofs)
	}
}

func TestChainOfUnusualSizeIsVerifiedEachTime(t *testing.T) {
	c := newCourt(t)
	chain := c.chain(func(leaf *x509.Certificate) { leaf.DNSNames = []string{strings.Repeat("a", maxPresented)} })
	for range 2 {
		if _, err := c.prove(chain, asClient, c.now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.proven); n != 0 {
		t.Errorf("%d of %d bytes remembered", n, len(chain[0].Raw))
	}
}

func TestProofsAreSharedByHandshakesAtOnce(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		chain, err := r.entries[web].current.chain()
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			go func() {
				for range 50 {
					if _, err := r.roots().prove(chain, asClient, time.Now()); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		synctest.Wait()
	})
}
