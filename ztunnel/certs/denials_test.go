// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/deny"
)

func denyID(id spiffeid.ID) deny.Entry { return deny.Entry{Kind: deny.KindID, Value: id.String()} }

// denies has a stream of the CA say whom it denies.
func (r *rig) denies(generation uint64, entries ...deny.Entry) {
	r.takeDenySet(0, DenySet{Generation: generation, Entries: entries})
}

// denied reports whether err says that somebody is denied.
func isDenied(err error) bool {
	var d *deny.Error
	return errors.As(err, &d)
}

// N-9: everything that an entry can name is refused by either end, in new handshakes and
// when tunnels are asked again; and let in when it is allowed.
func TestWhatIsDeniedProvesNothing(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		b.cfg.NodeAt = func(addr netip.Addr) string {
			return map[string]string{"10.0.0.1": "node-a", "10.0.0.3": "node-c"}[addr.String()]
		}
		leaf, issuer := a.leaf(web), a.issuer.ca.Issuer()
		from := netip.MustParseAddrPort("10.0.0.1:1")
		shown := deny.LeafOf(leaf, web.String())
		for name, entry := range map[string]deny.Entry{
			"the identity": denyID(web),
			"the serial":   {Kind: deny.KindSerial, Value: shown.Serial},
			"the key":      {Kind: deny.KindSPKI, Value: shown.SPKI},
			"the issuer":   {Kind: deny.KindIssuer, Value: hex.EncodeToString(issuer.SubjectKeyId)},
			"the root":     {Kind: deny.KindIssuer, Value: hex.EncodeToString(a.issuer.ca.Roots()[0].SubjectKeyId)},
			"the node":     {Kind: deny.KindNode, Value: "node-a"},
		} {
			generation := b.Denying().Generation
			good, err := b.ServerPair(t.Context(), db)
			if err != nil {
				t.Fatalf("%s: before: %v", name, err)
			}
			shows, _ := client(t, a, web, db)
			e := shake(t, good.Config, shows)
			if e.serverErr != nil || good.Denied(e.server, from) != nil {
				t.Fatalf("%s: before: %v, %v", name, e.serverErr, good.Denied(e.server, from))
			}
			b.denies(generation+1, entry)
			if err := good.Denied(e.server, from); !isDenied(err) {
				t.Errorf("%s: an open tunnel: %v", name, err)
			}
			if name == "the node" {
				if err := good.Denied(e.server, netip.MustParseAddrPort("10.0.0.3:1")); err != nil {
					t.Errorf("from another node: %v", err)
				}
			} else if name != "the issuer" && name != "the root" { // by which b proves itself, too
				if e := shake(t, good.Config, shows); !isDenied(e.serverErr) || e.clientErr == nil {
					t.Errorf("%s: a new one: %v, and the client sees %v", name, e.serverErr, e.clientErr)
				}
			} else if _, err := b.ServerPair(t.Context(), db); !isDenied(err) {
				t.Errorf("%s: the own certificate: %v", name, err)
			}
			b.denies(generation + 2)
			if err := good.Denied(e.server, from); err != nil {
				t.Errorf("%s: allowed again: %v", name, err)
			}
		}
	})
}

// A long stream lives on by a younger tunnel when the certificates of its own have expired.
// Denied is the stream by both.
func TestWhatProvedOnceIsDeniedWhenItHasExpired(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		b.cfg.NodeAt = func(netip.Addr) string { return "node-a" }
		good, err := b.ServerPair(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		shows, _ := client(t, a, web, db)
		old := shake(t, good.Config, shows)
		pass(2 * time.Hour)
		good, err = b.ServerPair(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		if time.Now().Before(good.Until(old.server)) {
			t.Fatal("after two hours the certificate of an hour holds")
		}
		from := netip.MustParseAddrPort("10.0.0.1:1")
		for generation, entry := range []deny.Entry{
			denyID(web),
			{Kind: deny.KindSerial, Value: deny.LeafOf(old.server.PeerCertificates[0], "").Serial},
			{Kind: deny.KindSPKI, Value: deny.LeafOf(old.server.PeerCertificates[0], "").SPKI},
			{Kind: deny.KindNode, Value: "node-a"},
		} {
			if err := good.Denied(old.server, from); err != nil {
				t.Errorf("before %v: %v", entry, err)
			}
			b.denies(uint64(2*generation+1), entry)
			if err := good.Denied(old.server, from); !isDenied(err) {
				t.Errorf("%v: %v", entry, err)
			}
			b.denies(uint64(2*generation + 2))
		}
		set := deny.NewSet()
		for _, by := range []*x509.Certificate{a.issuer.ca.Issuer(), a.issuer.ca.Roots()[0]} {
			set.Replace(0, []deny.Entry{{Kind: deny.KindIssuer, Value: hex.EncodeToString(by.SubjectKeyId)}})
			if _, is := set.MatchChains(proved(old.server.PeerCertificates).chains, time.Now()); !is {
				t.Errorf("below %v it is not denied", by.Subject)
			}
		}
	})
}

// The other role: whoever dials refuses a denied server, and a denied pod of the node has
// nothing to show, whatever peer it is for.
func TestADeniedIdentityHasNothingToShow(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		wants, err := a.ClientPair(t.Context(), web, db)
		if err != nil {
			t.Fatal(err)
		}
		shows, _ := server(t, b, db)
		a.denies(1, denyID(db))
		if e := shake(t, shows, wants.Config); !isDenied(e.clientErr) {
			t.Errorf("a denied server: %v", e.clientErr)
		}
		a.denies(2, denyID(web))
		begin := time.Now()
		if _, err := a.ClientPair(t.Context(), web, db); !isDenied(err) || time.Since(begin) > 0 {
			t.Errorf("the own identity: %v after %v", err, time.Since(begin))
		}
		if err := wants.Denied(tls.ConnectionState{}, netip.AddrPort{}); !isDenied(err) {
			t.Errorf("an open tunnel of it: %v", err)
		}
		a.denies(3)
		if _, err := a.ClientPair(t.Context(), web, db); err != nil {
			t.Errorf("allowed again: %v", err)
		}
	})
}

func TestADeniedNodeHasNothingToShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{ca: newCA(t, td)}
		r := run(t, Config{TTL: time.Hour, Node: "node-7"}, i, i)
		hold(t, r, web)
		synctest.Wait()
		r.denies(1, deny.Entry{Kind: deny.KindNode, Value: "node-7", Reason: "stolen"})
		if _, err := r.ServerPair(t.Context(), web); !isDenied(err) || !strings.Contains(err.Error(), "node node-7: stolen") {
			t.Errorf("%v", err)
		}
	})
}

// A certificate that is denied by itself is replaced, by another key; the identity goes on.
func TestADeniedCertificateIsReplaced(t *testing.T) {
	for name, entry := range map[string]func(deny.Subject) deny.Entry{
		"by its serial number": func(s deny.Subject) deny.Entry { return deny.Entry{Kind: deny.KindSerial, Value: s.Serial} },
		"by its key":           func(s deny.Subject) deny.Entry { return deny.Entry{Kind: deny.KindSPKI, Value: s.SPKI} },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T, r *rig) {
				hold(t, r, web)
				pass(10 * time.Minute)
				r.requests0()
				r.denies(1, entry(deny.LeafOf(r.leaf(web), web.String())))
				if _, err := r.ServerPair(t.Context(), web); err != nil {
					t.Errorf("a connection that waits: %v", err)
				}
				pass(0) // the rotation is told behind it
				if n := len(r.rotations()); n != 1 {
					t.Errorf("%d rotations", n)
				}
				// Nobody waits.
				r.denies(2, entry(deny.LeafOf(r.leaf(web), web.String())))
				pass(10 * time.Minute)
				if n := len(r.rotations()); n != 1 {
					t.Errorf("%d rotations without a connection", n)
				}
			})
		})
	}
}

// requests0 forgets what was asked and rotated so far.
func (r *rig) requests0() { r.issuer.requests(); r.rotations() }

func TestADenialEndsByItself(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		entry := denyID(web)
		entry.Until = time.Now().Add(time.Minute)
		r.denies(1, entry)
		pass(59 * time.Second)
		if _, err := r.ServerPair(t.Context(), web); !isDenied(err) {
			t.Errorf("before: %v", err)
		}
		pass(2 * time.Second)
		if _, err := r.ServerPair(t.Context(), web); err != nil {
			t.Errorf("after: %v", err)
		}
	})
}

// A denial that had ended is in force again when the clock is set back.
func TestOpenTunnelsAreAskedWhenTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := New(Config{TrustDomain: td, Log: quiet, OnDeny: func() { asked++ }})
		if s.clockSet(time.Now(), -time.Hour); asked != 1 {
			t.Errorf("open tunnels were asked %d times", asked)
		}
	})
}

// Which set counts. A replica that is behind brings nothing back that was lifted; numbers
// that begin anew, after the API server was restored, hide nobody who is denied then.
func TestALaterSetTakesThePlaceOfAllAndAnOlderOneOnlyAdds(t *testing.T) {
	d := &denials{set: deny.NewSet()}
	one, two, three := denyID(web), denyID(db), deny.Entry{Kind: deny.KindNode, Value: "n"}
	for _, step := range []struct {
		what       string
		generation uint64
		entries    []deny.Entry
		want       []deny.Entry
		now        uint64
	}{
		{"the first", 700, []deny.Entry{one, two}, []deny.Entry{one, two}, 700},
		{"a later one lifts", 710, []deny.Entry{two}, []deny.Entry{two}, 710},
		{"a replica that is behind", 700, []deny.Entry{one, two}, []deny.Entry{two}, 710},
		{"the same again", 710, []deny.Entry{two}, []deny.Entry{two}, 710},
		{"a restored API server", 12, []deny.Entry{three}, []deny.Entry{two, three}, 710},
		{"it lifts, and nobody can know that it is later", 13, nil, []deny.Entry{two, three}, 710},
		{"until its numbers are greater", 711, nil, nil, 711},
		{"what was lifted is denied again", 712, []deny.Entry{one}, []deny.Entry{one}, 712},
		{"and is then not lifted any more", 712, []deny.Entry{one}, []deny.Entry{one}, 712},
	} {
		d.take(DenySet{Generation: step.generation, Entries: step.entries})
		generation, entries, _ := d.set.Entries()
		if generation != step.now || !slices.Equal(entries, step.want) {
			t.Errorf("%s: generation %d, %v", step.what, generation, entries)
		}
	}
	if slices.ContainsFunc(d.lifted, func(l lifted) bool { return l.Entry == one }) {
		t.Error("what is denied is remembered as lifted")
	}
}

// After a restore of etcd numbers are smaller for good. An entry that was lifted before it, and
// is written again, must count, though not at once.
func TestWhatWasLiftedIsDeniedAgainByASetOfAnySmallerNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "denied")
		s := New(Config{TrustDomain: td, Log: quiet, DenyFile: file, Issuer: &scripted{}, OnDeny: func() {}})
		says := func(generation uint64, entries ...deny.Entry) {
			s.takeDenySet(0, DenySet{Generation: generation, Entries: entries})
		}
		says(700, denyID(web))
		says(710)
		time.Sleep(behindFor - time.Second)
		if says(12, denyID(web)); s.deniedID(web) != nil {
			t.Error("a replica that may only be behind denies again what was lifted")
		}
		s = New(Config{TrustDomain: td, Log: quiet, DenyFile: file, Issuer: &scripted{}, OnDeny: func() {}})
		s.restoreDenials()
		time.Sleep(behindFor - time.Second)
		if says(12, denyID(web)); s.deniedID(web) != nil {
			t.Error("after a restart: a replica that may only be behind denies again what was lifted")
		}
		time.Sleep(time.Second)
		if says(12, denyID(web)); !isDenied(s.deniedID(web)) {
			t.Error("what was lifted long ago cannot be denied any more")
		}
		if len(s.denials.lifted) > 0 {
			t.Errorf("what is denied is remembered as lifted: %v", s.denials.lifted)
		}
	})
}

func TestWhatIsRememberedOfDenialsIsBounded(t *testing.T) {
	d := &denials{set: deny.NewSet()}
	for g := range uint64(3) {
		var all []deny.Entry
		for n := range 1000 {
			all = append(all, deny.Entry{Kind: deny.KindSerial, Value: hex.EncodeToString([]byte{1, byte(g), byte(n >> 8), byte(n)})})
		}
		d.take(DenySet{Generation: 100 + g, Entries: all})
	}
	if len(d.lifted) != maxLifted {
		t.Errorf("%d are remembered as lifted", len(d.lifted))
	}
	for g := range byte(maxDenied/1000 + 5) {
		var all []deny.Entry
		for n := range 1000 {
			all = append(all, deny.Entry{Kind: deny.KindSerial, Value: hex.EncodeToString([]byte{2, g, byte(n >> 8), byte(n)})})
		}
		d.take(DenySet{Generation: 1, Entries: all})
	}
	if _, entries, _ := d.set.Entries(); len(entries) != maxDenied {
		t.Errorf("%d are denied by sets that are not later", len(entries))
	}
}

// The set is enforced before the disk has it, and a ztunnel that starts while the CA is
// away denies what its predecessor did.
func TestDenialsOutliveZtunnel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "denied")
	enforced := false
	before := New(Config{TrustDomain: td, Log: quiet, DenyFile: file, OnDeny: func() {
		enforced = true
		if _, err := os.Stat(file); err == nil {
			t.Error("the set is on disk before tunnels are asked")
		}
	}})
	before.takeDenySet(0, DenySet{Generation: 7, Entries: []deny.Entry{denyID(web), denyID(db)}})
	if !enforced {
		t.Error("nobody was told")
	}
	before.cfg.OnDeny = func() {}
	before.takeDenySet(1, DenySet{Generation: 8, Entries: []deny.Entry{denyID(web)}})

	after := New(Config{TrustDomain: td, Log: quiet, DenyFile: file, Issuer: &scripted{}})
	after.restoreDenials()
	if err := after.deniedID(web); !isDenied(err) {
		t.Errorf("after a restart: %v", err)
	}
	if after.takeDenySet(0, DenySet{Generation: 7, Entries: []deny.Entry{denyID(db)}}); after.deniedID(db) != nil {
		t.Error("what was lifted before the restart is denied")
	}
	if got := after.Denying(); got.Generation != 8 || got.Entries != 1 {
		t.Errorf("%+v", got)
	}

	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"half written": good[:len(good)/2], "empty": nil, "changed": bytes.Replace(good, []byte("sa/web"), []byte("sa/wob"), 1),
		"a bundle": bytes.Replace(good, []byte("deny set"), []byte("trust bundle"), 1),
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readDenials(file, td.Name()); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	write(t, file, string(good))
	if _, err := readDenials(file, "other.example"); err == nil || !strings.Contains(err.Error(), "of the trust domain") {
		t.Errorf("of another trust domain: %v", err)
	}
}

// scripted is a denier and a follower that does what a test says.
type scripted struct {
	script
	deny func(ctx context.Context, known uint64, take func(DenySet)) error
}

func (s *scripted) FollowDeny(ctx context.Context, known uint64, take func(DenySet)) error {
	return s.deny(ctx, known, take)
}

// A node that is cut off says for how long, and refuses new tunnels after Config.MaxAge. It
// goes by the monotonic clock; one stream of two is enough.
func TestANodeThatIsCutOffSaysSoAndRefusesAfterABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		s := &scripted{script: script{issuer: issuer{ca: newCA(t, td)}}}
		lasts := func(ctx context.Context, take func()) error {
			if away.Load() {
				return errDown
			}
			take()
			for !away.Load() && ctx.Err() == nil {
				wait(ctx, time.Second, nil)
			}
			return errDown
		}
		s.follow = func(ctx context.Context, _ Bundle, take func(Bundle) error) error {
			return lasts(ctx, func() { _ = take(bundleWith(5, s.ca.Roots()...)) })
		}
		s.deny = func(ctx context.Context, _ uint64, take func(DenySet)) error {
			return lasts(ctx, func() { take(DenySet{Generation: 7}) })
		}
		r := run(t, Config{TTL: 24 * time.Hour, MaxAge: time.Hour}, &s.issuer, s)
		hold(t, r, web)
		pass(5 * time.Hour)
		if d, f := r.Denying(), r.Following(); d.AgeSeconds != 0 || f.AgeSeconds != 0 || d.Connected != denyStreams {
			t.Errorf("while streams are open: %+v, %+v", d, f)
		}
		if _, err := r.ServerPair(t.Context(), web); err != nil {
			t.Errorf("while streams are open: %v", err)
		}
		away.Store(true)
		pass(55 * time.Minute)
		if d, f := r.Denying(), r.Following(); d.AgeSeconds < 3290 || d.AgeSeconds > 3300 || f.AgeSeconds < 3290 || d.Problem != errDown.Error() || d.Connected != 0 {
			t.Errorf("cut off: %+v, %+v", d, f)
		}
		if _, err := r.ServerPair(t.Context(), web); err != nil {
			t.Errorf("before the bound: %v", err)
		}
		pass(6 * time.Minute)
		if _, err := r.ClientPair(t.Context(), web, db); !errors.Is(err, ErrCutOff) {
			t.Errorf("after the bound: %v", err)
		}
		away.Store(false)
		pass(maxFollowBackoff + time.Second)
		if _, err := r.ServerPair(t.Context(), web); err != nil {
			t.Errorf("when the CA is back: %v", err)
		}
	})
	s := New(Config{TrustDomain: td, Log: quiet})
	if !strings.Contains(s.denials.heard.String(), " m=") || !strings.Contains(s.following.heard.String(), " m=") {
		t.Error("ages hang on the wall clock")
	}
}
