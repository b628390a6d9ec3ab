// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

const serverName = "culvert-identity.culvert-system.svc"

var (
	td    = spiffeid.RequireTrustDomainFromString("cluster.local")
	batch = spiffeid.RequireFromString("spiffe://cluster.local/ns/legacy/sa/batch")
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nobody is an Attestor that knows no node.
type nobody struct{}

func (nobody) Attest(context.Context, string) (server.Caller, error) {
	return server.Caller{}, errors.New("no node")
}

// world is a CA, on a socket while it runs, and what an operator gives to a process.
type world struct {
	t       *testing.T
	ca      *ca.CA
	store   join.Directory
	address string
	log     *env.Log
	cfg     Config
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	w := &world{t: t, ca: must(ca.Open(filepath.Join(dir, "ca"), ca.Options{TrustDomain: td})), store: join.Directory(filepath.Join(dir, "join")), address: env.Address(t), log: &env.Log{}}
	w.cfg = Config{
		CA: w.address, ServerName: serverName, RootFile: filepath.Join(dir, "root.pem"), TokenFile: filepath.Join(dir, "token"),
		Dir: filepath.Join(dir, "out"), Log: slog.New(slog.NewJSONHandler(w.log, nil)),
	}
	if err := os.WriteFile(w.cfg.RootFile, encodeCerts(w.ca.Roots()), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// serve runs the CA until stop.
func (w *world) serve() (stop func()) {
	w.t.Helper()
	placement := server.NewPlacement()
	placement.Replace(nil, nil)
	s := must(server.New(server.Config{
		CA: w.ca, Attestor: nobody{}, Placement: placement, Join: w.store, DNSNames: []string{serverName}, Log: slog.New(slog.DiscardHandler),
	}))
	ln := must(net.Listen("tcp", w.address))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// invite makes a token and puts it where the process finds it.
func (w *world) invite() join.Token {
	w.t.Helper()
	token, _, err := join.Create(w.t.Context(), w.store, join.Options{Identity: batch, TTL: 10 * time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.cfg.TokenFile, []byte(token.Text()+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return token
}

// set is one that the CA has signed.
func (w *world) set() *svid {
	key := must(newKey())
	return must(newSVID(key, must(w.ca.Certify(key.Public(), batch, time.Hour)), w.ca.Roots(), time.Now()))
}

// run runs the process until stop, which returns how it ended.
func (w *world) run() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, w.cfg) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	w.t.Cleanup(func() { stop() })
	return stop
}

// serial is that of the certificate in force, as a program sees it that resolves the link
// once; empty if there is none.
func (w *world) serial() string {
	for {
		set, err := os.Readlink(filepath.Join(w.cfg.Dir, dataLink))
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(w.cfg.Dir, set, CertFile), filepath.Join(w.cfg.Dir, set, KeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another set is in force by now
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.Text(16)
	}
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s; log:\n%s", what, w.log)
		}
	}
}

// A000-7: files that a plain TLS library reads, and that prove who the process is.
func TestAProcessJoinsAndItsFilesProveWhoItIs(t *testing.T) {
	w := newWorld(t)
	defer w.serve()()
	w.invite()
	stop := w.run()
	w.until("joined", func() bool { return w.serial() != "" })
	pair := must(tls.LoadX509KeyPair(filepath.Join(w.cfg.Dir, CertFile), filepath.Join(w.cfg.Dir, KeyFile)))
	if id := must(identity.FromCertificate(pair.Leaf)); id != batch {
		t.Errorf("the process is %v", id)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(must(os.ReadFile(filepath.Join(w.cfg.Dir, BundleFile)))) {
		t.Error("no root in the bundle")
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		intermediates.AddCert(must(x509.ParseCertificate(der)))
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	for _, name := range setFiles {
		if st := must(os.Stat(filepath.Join(w.cfg.Dir, name))); st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", name, st.Mode())
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if text := w.log.String(); strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, string(must(os.ReadFile(w.cfg.TokenFile)))[30:60]) {
		t.Errorf("the log shows a secret: %s", text)
	}
}

// The certificate alone renews: the token is gone. A restart goes on with what is there.
func TestAProcessRenewsWithoutItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.TTL = identity.MinTTL
	defer w.serve()()
	w.invite()
	stop := w.run()
	w.until("joined", func() bool { return w.serial() != "" })
	if err := os.Remove(w.cfg.TokenFile); err != nil {
		t.Fatal(err)
	}
	first := w.serial()
	w.until("renewed", func() bool { return w.serial() != first })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	second := w.serial()
	stop = w.run()
	w.until("renewed after a restart", func() bool { return w.serial() != second })
	if err := stop(); err != nil { // the former set goes after its successor is there
		t.Fatal(err)
	}
	entries := must(os.ReadDir(w.cfg.Dir))
	if len(entries) != len(setFiles)+2 { // the link and its set
		t.Errorf("the directory holds %v", entries)
	}
}

// A process that was killed after the CA signed, and before the answer came, has a token
// that is redeemed: by a key that it finds again.
func TestALostAnswerDoesNotCostTheToken(t *testing.T) {
	w := newWorld(t)
	stopCA := w.serve()
	w.invite()
	dir := must(openDirectory(w.cfg.Dir))
	k := &keeper{Config: w.cfg.withDefaults(), dir: dir}
	if _, err := k.ask(t.Context()); err != nil { // and the answer is forgotten
		t.Fatal(err)
	}
	dir.close()
	stopCA()
	defer w.serve()()
	w.run()
	w.until("joined", func() bool { return w.serial() != "" })
}

// Killed at any point of writing, the old set or the new one is in force, whole.
func TestASetIsWholeWheneverItIsRead(t *testing.T) {
	w := newWorld(t)
	dir := must(openDirectory(w.cfg.Dir))
	defer dir.close()
	if found, err := dir.read(); found != nil || err != nil {
		t.Errorf("found %v, %v in an empty directory", found, err)
	}
	if err := dir.write(w.set()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			if err := dir.write(w.set()); err != nil {
				t.Error(err)
			}
		}
	}()
	for reads := 0; ; reads++ {
		// Whoever resolves the link once reads one set, unless it is removed meanwhile.
		now := must(os.Readlink(dir.name(dataLink)))
		cert, err := os.ReadFile(dir.name(now, CertFile))
		key, err2 := os.ReadFile(dir.name(now, KeyFile))
		if errors.Join(err, err2) == nil {
			if _, err := tls.X509KeyPair(cert, key); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// A program that waits for one of the files finds the others when it is there: the names
// of the first set begin to lead somewhere in one step.
func TestTheFirstSetAppearsWhole(t *testing.T) {
	w := newWorld(t)
	dir := must(openDirectory(w.cfg.Dir))
	defer dir.close()
	first := w.set()
	inTheWay := dir.name(setFiles[len(setFiles)-1]) // a directory, which no link replaces
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dir.write(first); err == nil {
		t.Fatal("written")
	}
	for _, name := range setFiles[:len(setFiles)-1] {
		if _, err := os.Stat(dir.name(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there without %s: %v", name, inTheWay, err)
		}
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := dir.write(first); err != nil {
		t.Fatal(err)
	}
	for _, name := range setFiles {
		must(os.Stat(dir.name(name)))
	}
}

// A disk that fails at any point of writing leaves an identity in force.
func TestASetThatCannotBeSyncedLeavesOneInForce(t *testing.T) {
	w := newWorld(t)
	dir := must(openDirectory(w.cfg.Dir))
	defer dir.close()
	first := w.set()
	if err := dir.write(first); err != nil {
		t.Fatal(err)
	}
	former := must(os.Readlink(dir.name(dataLink)))
	broken := errors.New("input/output error")
	dir.sync = func(path string) error {
		if path != dir.path {
			return broken
		}
		return nil
	}
	if err := dir.write(w.set()); !errors.Is(err, broken) {
		t.Errorf("a set that is not on disk was taken: %v", err)
	}
	if found, err := dir.read(); err != nil || found == nil || !found.leaf().Equal(first.leaf()) {
		t.Errorf("the former set is not in force: %v, %v", found, err)
	}
	dir.sync = func(path string) error {
		if path == dir.path {
			return broken
		}
		return nil
	}
	if err := dir.write(w.set()); !errors.Is(err, broken) {
		t.Errorf("a link that is not on disk was taken: %v", err)
	}
	if _, err := os.Stat(dir.name(former, CertFile)); err != nil {
		t.Errorf("the former set was removed before its successor was on disk: %v", err)
	}
}

func TestWhatOnlyAnOperatorCanMendEndsTheProcess(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(w *world, token join.Token)
		want  string
	}{
		"an unknown token": {func(w *world, token join.Token) { w.store.Remove(t.Context(), token.ID) }, "no such join token"},
		"a token that another redeemed": {func(w *world, token join.Token) {
			w.store.Redeem(t.Context(), token.ID, join.Key{1})
		}, "redeemed by another key"},
		"no token": {func(w *world, token join.Token) { w.cfg.TokenFile = "" }, "an operator must make a join token"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			defer w.serve()()
			test.spoil(w, w.invite())
			err := Run(t.Context(), w.cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ended with %v, want %q", err, test.want)
			}
		})
	}
}

func TestARevokedProcessEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.TTL = identity.MinTTL
	defer w.serve()()
	token := w.invite()
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), w.cfg) }()
	w.until("joined", func() bool { return w.serial() != "" })
	if err := w.store.Remove(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	var refused *Refused
	if err := <-done; !errors.As(err, &refused) || refused.Reason != identityv1.Reason_PROCESS_REVOKED {
		t.Errorf("ended with %v", err)
	}
}

// A CA that is away, or is another one, costs nothing but time.
func TestTheCAIsWaitedForAndMustProveItself(t *testing.T) {
	w := newWorld(t)
	w.invite()
	good := must(os.ReadFile(w.cfg.RootFile))
	other := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td}))
	if err := os.WriteFile(w.cfg.RootFile, encodeCerts(other.Roots()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.until("said that the CA is away", func() bool { return strings.Contains(w.log.String(), "does not answer") })
	defer w.serve()()
	w.until("refused the wrong CA", func() bool { return strings.Contains(w.log.String(), "unknown authority") })
	if w.serial() != "" {
		t.Error("joined by a CA that no root vouches for")
	}
	if err := os.WriteFile(w.cfg.RootFile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("joined", func() bool { return w.serial() != "" })
}

func TestTwoDoNotKeepOneDirectory(t *testing.T) {
	w := newWorld(t)
	defer w.serve()()
	w.invite()
	w.run()
	w.until("joined", func() bool { return w.serial() != "" })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := Run(ctx, w.cfg); err == nil || !strings.Contains(err.Error(), "another process keeps an identity there") {
		t.Errorf("a second one: %v", err)
	}
}

// A root that one answer does not name stays for that one: a replica of the CA may not
// know of it yet.
func TestARootGoesWhenTwoAnswersInARowDoNotNameIt(t *testing.T) {
	a := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td})).Roots()[0]
	b := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td})).Roots()[0]
	k := &keeper{}
	for i, step := range []struct{ named, want int }{{2, 2}, {1, 2}, {2, 2}, {1, 2}, {1, 1}} {
		roots := k.keepRoots([]*x509.Certificate{a, b}[:step.named])
		if len(roots) != step.want {
			t.Errorf("step %d: %d roots, want %d", i, len(roots), step.want)
		}
		k.current = &svid{roots: roots}
	}
}

// Whatever the CA answers that was not asked for is not put in place.
func TestAnAnswerThatWasNotAskedForIsRefused(t *testing.T) {
	w := newWorld(t)
	key, other := must(newKey()), must(newKey())
	stranger := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td}))
	answer := func(chain, roots []*x509.Certificate) *identityv1.IstioCertificateResponse {
		texts := []string{}
		for _, c := range chain {
			texts = append(texts, string(encodeCerts([]*x509.Certificate{c})))
		}
		return &identityv1.IstioCertificateResponse{CertChain: append(texts, string(encodeCerts(roots)))}
	}
	chain := must(w.ca.Certify(key.Public(), batch, time.Hour))
	if _, err := read(key, answer(chain, w.ca.Roots())); err != nil {
		t.Error(err)
	}
	for name, a := range map[string]*identityv1.IstioCertificateResponse{
		"empty":            {},
		"another key":      answer(must(w.ca.Certify(other.Public(), batch, time.Hour)), w.ca.Roots()),
		"another root":     answer(chain, stranger.Roots()),
		"no issuer":        answer(chain[:1], w.ca.Roots()),
		"no root":          {CertChain: []string{string(encodeCerts(chain)), ""}},
		"no leaf":          answer(chain[1:], w.ca.Roots()),
		"a key among them": {CertChain: []string{string(must(encodeKey(other))), string(encodeCerts(w.ca.Roots()))}},
		"no PEM":           {CertChain: []string{"x", "y"}},
	} {
		if s, err := read(key, a); err == nil {
			t.Errorf("%s: %v was taken", name, s.id)
		}
	}
}

func TestFilesOfAnEarlierRunThatAreSpoiltAreSaid(t *testing.T) {
	w := newWorld(t)
	dir := must(openDirectory(w.cfg.Dir))
	key := must(newKey())
	s := must(newSVID(key, must(w.ca.Certify(key.Public(), batch, time.Hour)), w.ca.Roots(), time.Now()))
	if err := dir.write(s); err != nil {
		t.Fatal(err)
	}
	dir.close()
	if err := os.WriteFile(filepath.Join(w.cfg.Dir, KeyFile), must(encodeKey(must(newKey()))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), w.cfg); err == nil || !strings.Contains(err.Error(), w.cfg.Dir) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("ended with %v", err)
	}
}

// monotonic is the monotonic reading of a time that time.Now returned (time.Time.ext).
func monotonic(t *time.Time) *int64 {
	return &(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(t)).ext
}

func TestAClockThatIsSetBackDoesNotPutRenewalOff(t *testing.T) {
	now := time.Now()
	k := &keeper{current: &svid{}, renew: now.Add(time.Hour)}
	later := now // by the wall clock, which was set back
	*monotonic(&later) += int64(2 * time.Hour)
	if wait := k.due(later); wait > 0 {
		t.Errorf("due in %v, two hours after the start of one", wait)
	}
	slept := now.Add(2 * time.Hour) // the monotonic clock stands still while the machine sleeps
	*monotonic(&slept) -= int64(2 * time.Hour)
	if wait := k.due(slept); wait > 0 {
		t.Errorf("due in %v after a sleep", wait)
	}
}

func TestConfigNamesAllThatIsWrong(t *testing.T) {
	err := Config{CA: "ca", TTL: time.Second}.Validate()
	for _, want := range []string{"CA is", "RootFile", "Dir", "TTL is 1s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	authority := must(ca.Open(f.TempDir(), ca.Options{TrustDomain: td}))
	key := must(newKey())
	chain := must(authority.Certify(key.Public(), batch, time.Hour))
	f.Add(string(encodeCerts(chain)), string(encodeCerts(authority.Roots())))
	f.Add("", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, leaf, roots string) {
		s, err := read(key, &identityv1.IstioCertificateResponse{CertChain: []string{leaf, roots}})
		if err == nil && (s.id != batch || s.verify(time.Now()) != nil) {
			t.Fatalf("took %v", s.id)
		}
	})
}
