// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

// pusher is the streaming half of a CA at the other end of a socket.
type pusher struct {
	identityv1.UnimplementedCertificateServiceServer

	mu     sync.Mutex
	bundle *identityv1.Bundle
	next   chan struct{}
	acks   []uint64
	opened int
}

func newPusher() *pusher { return &pusher{next: make(chan struct{})} }

func (p *pusher) push(generation uint64, roots []*x509.Certificate) {
	hash := identity.BundleHash(roots)
	b := &identityv1.Bundle{Generation: generation, Sha256: hash[:]}
	for _, root := range roots {
		b.Roots = append(b.Roots, root.Raw)
	}
	p.send(b)
}

func (p *pusher) send(b *identityv1.Bundle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bundle = b
	close(p.next)
	p.next = make(chan struct{})
}

func (p *pusher) StreamBundle(stream grpc.BidiStreamingServer[identityv1.BundleAck, identityv1.Bundle]) error {
	p.mu.Lock()
	p.opened++
	p.mu.Unlock()
	go func() {
		for {
			ack, err := stream.Recv()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.acks = append(p.acks, ack.GetGeneration())
			p.mu.Unlock()
		}
	}()
	for {
		p.mu.Lock()
		b, next := p.bundle, p.next
		p.mu.Unlock()
		if b != nil {
			if err := stream.Send(b); err != nil {
				return err
			}
		}
		select {
		case <-next:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// acked returns the generations that were acknowledged, the first word of each stream included.
func (p *pusher) acked() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.acks)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A001-6, F-10: bundles come by a stream, independent of leaves, and are acknowledged.
func TestTheNodeFollowsTheBundleThroughTheDeathOfAReplica(t *testing.T) {
	authority := newCA(t, td)
	p := newTwoReplicas(t, authority)
	roots := rootsOf(2)
	for _, w := range p.wires {
		w.pusher.push(1, roots[:1])
	}
	r := run(t, Config{TTL: time.Hour}, nil, p.client)
	waitFor(t, "the first bundle", func() bool { return r.Following().Generation == 1 && r.Following().Connected })
	if r.Following().SHA256 != hexOf(identity.BundleHash(roots[:1])) {
		t.Errorf("it is %+v", r.Following())
	}
	for _, w := range p.wires {
		w.pusher.push(2, roots)
	}
	waitFor(t, "a second on the same stream", func() bool { return r.Following().Generation == 2 })
	both := func() (acks []uint64, opened int) {
		for _, w := range p.wires {
			acks = append(acks, w.pusher.acked()...)
			w.pusher.mu.Lock()
			opened += w.pusher.opened
			w.pusher.mu.Unlock()
		}
		return acks, opened
	}
	waitFor(t, "both are acknowledged", func() bool { acks, _ := both(); return slices.Equal(acks, []uint64{0, 1, 2}) })
	if _, opened := both(); opened != 1 {
		t.Errorf("%d streams to two replicas", opened)
	}

	serving := 0
	if len(p.wires[1].pusher.acked()) > 0 {
		serving = 1
	}
	p.ways[serving].kill()
	waitFor(t, "the stream is lost", func() bool { return !r.Following().Connected || len(p.wires[1-serving].pusher.acked()) > 0 })
	watch := env.NewStopwatch()
	p.wires[1-serving].pusher.push(3, roots[1:])
	waitFor(t, "the other replica is followed", func() bool { return r.Following().Generation == 3 })
	if took := watch.Elapsed(); took > 5*time.Second {
		t.Errorf("after %v", took)
	}
	if acks := p.wires[1-serving].pusher.acked(); acks[0] != 2 {
		t.Errorf("the other replica heard %v: the node had generation 2", acks)
	}
}

func TestWhatIsNoBundleIsRefused(t *testing.T) {
	root := rootsOf(1)[0]
	hash := identity.BundleHash([]*x509.Certificate{root})
	for name, wrong := range map[string]*identityv1.Bundle{
		"its hash is":          {Generation: 5, Sha256: hash[:31], Roots: [][]byte{root.Raw}},
		"it has 65 roots":      {Generation: 5, Sha256: hash[:], Roots: slices.Repeat([][]byte{root.Raw}, 65)},
		"has no generation":    {Sha256: hash[:], Roots: [][]byte{root.Raw}},
		"its roots have":       {Generation: 5, Sha256: hash[:]},
		"malformed":            {Generation: 5, Sha256: bundleHashOf([]byte("x")), Roots: [][]byte{[]byte("x")}},
		"the bundle is empty.": {Generation: 5, Sha256: bundleHashOf()},
	} {
		if _, err := bundleOf(wrong); err == nil || !strings.Contains(err.Error()+".", name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	// One that Go cannot read does not cost the others.
	mixed := &identityv1.Bundle{Generation: 5, Sha256: bundleHashOf(root.Raw, []byte("x")), Roots: [][]byte{[]byte("x"), root.Raw}}
	if b, err := bundleOf(mixed); err != nil || len(b.Roots) != 1 {
		t.Errorf("%d roots, %v", len(b.Roots), err)
	}
}

func bundleHashOf(ders ...[]byte) []byte {
	var roots []*x509.Certificate
	for _, der := range ders {
		roots = append(roots, &x509.Certificate{Raw: der})
	}
	hash := identity.BundleHash(roots)
	return hash[:]
}

func TestACAWithoutStreamsIsToldFromOneThatIsAway(t *testing.T) {
	authority := newCA(t, td)
	w := &wire{ca: authority} // as istiod
	addr, _ := serve(t, w, "127.0.0.1:0")
	cfg := files(t, authority)
	cfg.Address = addr
	c := dial(t, cfg)
	if err := c.Follow(soon(t), Bundle{}, func(Bundle) error { return nil }, nil); !errors.Is(err, errNoStream) {
		t.Errorf("istiod: %v", err)
	}
	cfg.Address = "127.0.0.1:1"
	var known *Problem
	if err := dial(t, cfg).Follow(soon(t), Bundle{}, nil, nil); !errors.As(err, &known) || known.Reason != Unreachable {
		t.Errorf("nobody: %v", err)
	}
}

// script is a follower that does what a test says.
type script struct {
	issuer
	follow func(ctx context.Context, known Bundle, take func(Bundle) error) error
}

func (s *script) Follow(ctx context.Context, known Bundle, take func(Bundle) error, _ func() []Rest) error {
	return s.follow(ctx, known, take)
}

func TestAStreamThatBreaksIsOpenedAgainWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int32
		s := &script{issuer: issuer{ca: newCA(t, td)}}
		s.follow = func(context.Context, Bundle, func(Bundle) error) error {
			opened.Add(1)
			return errDown
		}
		run(t, Config{TTL: time.Hour}, &s.issuer, s)
		pass(time.Minute)
		if n := opened.Load(); n < 5 || n > 40 {
			t.Errorf("opened %d times in a minute", n)
		}
		before := opened.Load()
		pass(time.Hour)
		if n := opened.Load() - before; n < 120 || n > 400 { // 15 s on average
			t.Errorf("opened %d times in an hour", n)
		}
	})
}

// A001-3, and linkerd2#13613: a root that was changed while nobody wrote the node's file.
func TestTheCAIsKnownByTheBundleWhenItsFileIsOld(t *testing.T) {
	before, after, rogue := newCA(t, td), newCA(t, td), newCA(t, td)
	cfg := files(t, before) // and never written again
	var r *rig
	cfg.Vouch = func(file []*x509.Certificate) ([]*x509.Certificate, uint64) { return r.VouchForCA(file) }
	r = &rig{Store: New(Config{TrustDomain: td, Log: quiet})}
	asks := func(authority *ca.CA) error {
		addr, stop := serve(t, &wire{ca: authority}, "127.0.0.1:0")
		defer stop()
		cfg := cfg
		cfg.Address = addr
		c := dial(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		key, err := newPrivateKey("")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Issue(ctx, web, mustCSR(t, key), time.Hour)
		return err
	}
	known := func(when string, want error, ca *ca.CA) (err error) {
		t.Helper()
		refused := false
		for range 10 { // in two seconds a slow machine may not even reach the CA
			err = asks(ca)
			var p *Problem
			if refused = errors.As(err, &p) && p.Reason == CACertificate; refused || err == nil {
				break
			}
		}
		if refused != (want != nil) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v", when, err)
		}
		return err
	}
	known("by its file", nil, before)
	known("a CA that nobody knows", errDown, after)
	r.say(t, 1, slices.Concat(before.Roots(), after.Roots()))
	known("the old root, while both are in the bundle", nil, before)
	known("the new root, which the file does not name", nil, after)
	r.say(t, 2, after.Roots())
	known("the new root alone", nil, after)
	err := known("the root that was dropped, which the file names", errDown, before)
	if err == nil || !strings.Contains(err.Error(), "dropped") || !strings.Contains(err.Error(), "generation 2") {
		t.Errorf("a root that was dropped: %v", err)
	}
	if err := r.take(bundleWith(2, rogue.Roots()...)); err == nil {
		t.Error("two replicas do not agree, and that is not said")
	}
	known("a root that was only heard of", errDown, rogue)
	write(t, cfg.RootFile, text(rogue.Roots()...))
	known("the file is another mesh's", errDown, after)
}

// Saved bundles: a ztunnel that starts while the CA is away.

func TestTheLastGoodBundleOutlivesZtunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "bundle")
		i := &issuer{ca: newCA(t, td)}
		roots := rootsOf(3)
		before := run(t, Config{BundleFile: file}, i, i)
		synctest.Wait() // Run has looked for what was saved
		before.say(t, 7, roots[:2])
		before.say(t, 8, roots[1:2])
		_ = before.take(bundleWith(8, roots[2])) // of a replica that disagrees: heard

		after := run(t, Config{BundleFile: file}, i, i)
		synctest.Wait()
		if after.Following().Generation != 8 || after.roots() == nil {
			t.Fatalf("restored: %+v", after.Following())
		}
		after.trust.trusts(t, "after a restart", roots[1:]...)
		if err := after.trust.hear(roots[:1], time.Now(), time.Hour); err == nil {
			t.Error("the root that was dropped is taken from an answer")
		}
		if err := after.take(bundleWith(7, roots...)); !errors.Is(err, errOldBundle) {
			t.Errorf("an older bundle: %v", err)
		}
	})
}

func TestASavedBundleThatIsWrongIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "bundle")
		i := &issuer{ca: newCA(t, td)}
		run(t, Config{BundleFile: file}, i, i).say(t, 7, rootsOf(1))
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		flipped := bytes.Replace(good, []byte(`"generation":7`), []byte(`"generation":9`), 1)
		for name, content := range map[string][]byte{
			"half written": good[:len(good)/2], "empty": nil, "one byte": good[:1], "changed": flipped,
			"longer": append(slices.Clone(good), '\n'), "of zeros": make([]byte, len(good)), "without its first line": good[slices.Index(good, '\n')+1:],
		} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			r := run(t, Config{BundleFile: file}, i, i)
			synctest.Wait()
			if r.Following().Generation != 0 || r.roots() != nil {
				t.Errorf("%s: restored %+v", name, r.Following())
			}
		}
		write(t, file, string(good))
		if _, err := readSaved(file, td.Name()); err != nil {
			t.Errorf("what was written: %v", err)
		}
		if _, err := readSaved(file, "other.example"); err == nil || !strings.Contains(err.Error(), `of the trust domain "cluster.local"`) {
			t.Errorf("a bundle of another trust domain: %v", err)
		}
		os.Remove(file)
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSaved(file, td.Name()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("a pipe: %v", err)
		}
	})
}

func TestASavedRootThatGoCannotReadDoesNotCostTheOthers(t *testing.T) {
	roots := rootsOf(2)
	old := trust{said: bundleWith(7, roots[0]), heard: []heard{{root: roots[1], at: time.Now()}}, dropped: []sum{{1}}}
	v := old.saved(td.Name(), sum{})
	v.Said = append(v.Said, []byte("x"))
	v.Heard = append(v.Heard, savedHeard{Root: []byte("x")})
	k, err := v.trust()
	if err != nil || len(k.dropped) != 1 {
		t.Errorf("%d dropped, %v", len(k.dropped), err)
	}
	k.trusts(t, "without them", roots...)
	v.Said, v.Heard = [][]byte{[]byte("x")}, nil
	if _, err := v.trust(); err == nil {
		t.Error("none is left")
	}
}

func TestRevocationDoesNotWaitForTheDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	s := New(Config{TrustDomain: td, Log: quiet, BundleFile: file, OnBundle: func() {
		if _, err := os.Stat(file); err == nil {
			t.Error("the bundle is on disk before tunnels are asked")
		}
	}})
	if err := s.take(bundleWith(7, rootsOf(1)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestABundleThatCannotBeSavedIsInForceNevertheless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{ca: newCA(t, td)}
		r := run(t, Config{BundleFile: filepath.Join(t.TempDir(), "gone", "bundle")}, i, i)
		r.say(t, 7, rootsOf(1))
		if f := r.Following(); f.Generation != 7 || f.Roots != 1 {
			t.Errorf("%+v", f)
		}
	})
}

func TestTheRootFileCountsUntilTheCASaysBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "root.pem")
		roots := rootsOf(4)
		write(t, file, text(roots[:2]...))
		s := &script{issuer: issuer{ca: newCA(t, td)}}
		connected := make(chan struct{})
		s.follow = func(ctx context.Context, _ Bundle, take func(Bundle) error) error {
			select {
			case <-connected:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := take(bundleWith(5, roots[1:3]...)); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "it ends at once")
		}
		r := run(t, Config{RootFile: file}, &s.issuer, s)
		now := func(when string, want ...*x509.Certificate) {
			t.Helper()
			pass(rootFilePoll + time.Second)
			r.Store.mu.Lock()
			defer r.Store.mu.Unlock()
			r.trust.trusts(t, when, want...)
		}
		now("no stream yet", roots[:2]...)
		write(t, file, text(roots[0], roots[3])+"half a cert")
		now("the file has another root", roots[0], roots[1], roots[3])
		write(t, file, "")
		now("an empty file says nothing", roots[0], roots[1], roots[3])
		write(t, file, text(roots[:2]...))
		now("the first content again", roots[0], roots[1], roots[3])
		connected <- struct{}{}
		now("the stream has said what holds; the file has not changed since", roots[1:3]...)
		write(t, file, text(roots[1], roots[3]))
		now("the stream is away, and the file has changed", roots[1], roots[2], roots[3])
		connected <- struct{}{}
		now("the stream says again what holds", roots[1:3]...)
	})
}

func TestARootThatWasWrittenToTheFileDuringAStreamDoesNotCountAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := Config{RootFile: filepath.Join(dir, "root.pem"), BundleFile: filepath.Join(dir, "bundle")}
		roots := rootsOf(2)
		write(t, cfg.RootFile, text(roots[0]))
		s := &script{issuer: issuer{ca: newCA(t, td)}}
		s.follow = func(ctx context.Context, _ Bundle, take func(Bundle) error) error {
			if err := take(bundleWith(5, roots[0])); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		before := run(t, cfg, &s.issuer, s)
		pass(time.Second)
		write(t, cfg.RootFile, text(roots...))
		pass(rootFilePoll + time.Second)
		before.trust.trusts(t, "the stream is open", roots[0])

		i := &issuer{ca: newCA(t, td)} // no stream
		after := run(t, cfg, i, i)
		pass(time.Second)
		after.trust.trusts(t, "after a restart", roots[0])
	})
}
