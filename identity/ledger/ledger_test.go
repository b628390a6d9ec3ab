// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	os.Exit(env.CheckLeaks(m))
}

const web = "spiffe://cluster.local/ns/shop/sa/web"

// rig is a directory with ledgers, and the CA that certifies them.
type rig struct {
	t   testing.TB
	dir string
	ca  *ca.CA
}

func newRig(t testing.TB) *rig {
	t.Helper()
	authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, filepath.Join(t.TempDir(), "ledger"), authority}
}

func (r *rig) options(replica string) Options {
	return Options{
		Dir: r.dir, Replica: replica, Issuer: r.ca.Issuer, Roots: r.ca.Roots,
		Certify: func(key crypto.PublicKey) ([]*x509.Certificate, error) {
			return r.ca.CertifyLedger(key, Subject(replica))
		},
	}
}

// open opens a ledger whose files are small.
func (r *rig) open(replica string) *Ledger {
	r.t.Helper()
	l, err := Open(r.options(replica))
	// A test beside this one starts a process: until its exec, that has the locks of ours.
	for end := time.Now().Add(10 * time.Second); err != nil && strings.Contains(err.Error(), "is locked by") && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
		l, err = Open(r.options(replica))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	l.fileBytes = 4 << 10
	return l
}

// run runs a ledger until end is called.
func (r *rig) run(l *Ledger) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	end = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(end)
	if l.opts.Certify != nil {
		eventually(r.t, "its key is certified", func() bool { return !l.Stats().Unsigned })
	}
	return end
}

// keep has a process keep some decisions, and ends it in good order.
func (r *rig) keep(replica string, decisions int) {
	r.t.Helper()
	l := r.open(replica)
	end := r.run(l)
	for i := range decisions {
		l.Issued(decision(i))
	}
	end()
}

func decision(i int) Decision {
	return Decision{
		Identity: web, Node: "node-1", Pods: []string{"uid-1"}, Serial: fmt.Sprintf("%x", i), KeySHA256: strings.Repeat("ab", 32),
		NotBefore: time.Unix(1, 0).UTC(), NotAfter: time.Unix(3601, 0).UTC(), Took: 0.001,
	}
}

func (r *rig) verify() *Report {
	r.t.Helper()
	report, err := Verify(Question{Dir: r.dir, Roots: r.ca.Roots()}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func (r *rig) wantWhole() *Report {
	r.t.Helper()
	report := r.verify()
	for _, fault := range report.Faults {
		r.t.Errorf("a ledger that nobody touched: %v", fault)
	}
	return report
}

// wantFault is that verify finds one that says so.
func (r *rig) wantFault(what string) {
	r.t.Helper()
	faults := r.verify().Faults
	for _, fault := range faults {
		if strings.Contains(fault.String(), what) {
			return
		}
	}
	r.t.Errorf("faults %v, want one that says %q", faults, what)
}

// files are the paths of the ledger's files but heads, in order.
func (r *rig) files(pattern string) []string {
	r.t.Helper()
	paths, err := filepath.Glob(filepath.Join(r.dir, pattern))
	if err != nil || len(paths) == 0 {
		r.t.Fatalf("files %s: %v, %v", pattern, paths, err)
	}
	return paths
}

func (r *rig) text(path string) []byte {
	r.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

func (r *rig) set(path string, text []byte) {
	r.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func TestEachDecisionIsALineOfASignedChain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.open("ca-1")
	end := r.run(l)
	const each = 20
	for i := range each {
		l.Issued(decision(i))
		l.Denied(Decision{Identity: web, Node: "node-2", Code: "PermissionDenied", Refusal: "not_placed"})
	}
	end()
	kinds := map[Kind]int{}
	var last Record
	report, err := Verify(Question{Dir: r.dir, Roots: r.ca.Roots()}, func(r Record) { kinds[r.Kind]++; last = r })
	if err != nil || len(report.Faults) > 0 {
		t.Fatal(report.Faults, err)
	}
	files := len(r.files("ca-1-*.jsonl"))
	if kinds[KindIssued] != each || kinds[KindDenied] != each || kinds[KindFile] != files || kinds[KindSigner] < files || kinds[KindCheckpoint] < files-1 || kinds[KindStart] != 1 || last.Kind != KindEnd {
		t.Errorf("kinds %v in %d files, the last line is %s", kinds, files, last.Kind)
	}
	if files < 3 {
		t.Errorf("%d files: they are not rotated", files)
	}
	if chain := report.Chains[0]; chain.Signed != chain.Last || chain.Last != last.Seq || chain.Lost != 0 {
		t.Errorf("chain %+v, want it signed up to %d", chain, last.Seq)
	}
	if s := l.Stats(); s.Issued != each || s.Denied != each || s.Lost != 0 || s.Failing || s.Unsigned {
		t.Errorf("stats %+v", s)
	}
}

func TestManyAppendAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.open("ca-1")
	end := r.run(l)
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := range 50 {
				l.Issued(decision(worker*50 + i))
			}
		})
	}
	group.Wait()
	end()
	seen := map[string]bool{}
	if _, err := Verify(Question{Dir: r.dir}, func(r Record) {
		if r.Kind == KindIssued {
			seen[r.Serial] = true
		}
	}); err != nil || len(seen) != 16*50 {
		t.Errorf("%d decisions are there, %v", len(seen), err)
	}
	r.wantWhole()
}

func TestTheNextProcessGoesOnWithTheChain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 4 {
		r.keep("ca-1", 5)
	}
	report := r.wantWhole()
	if len(report.Chains) != 1 || report.Chains[0].First != 1 {
		t.Errorf("chains %+v", report.Chains)
	}
	var ended []Ended
	if _, err := Verify(Question{Dir: r.dir}, func(r Record) {
		if r.Kind == KindStart {
			ended = append(ended, r.Ended)
		}
	}); err != nil || fmt.Sprint(ended) != "[first closed closed closed]" {
		t.Errorf("starts after %v, %v", ended, err)
	}
}

func TestTwoReplicasShareADirectoryByTheirNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.open("ca-1")
	r.run(one)
	if _, err := Open(r.options("ca-1")); err == nil || !strings.Contains(err.Error(), "is locked by process") {
		t.Errorf("a second process of the name: %v", err)
	}
	two := r.open("ca-2")
	end := r.run(two)
	one.Issued(decision(1))
	two.Issued(decision(2))
	end()
	if report := r.wantWhole(); len(report.Chains) != 2 {
		t.Errorf("chains %+v", report.Chains)
	}
	// What one has signed says nothing of the other.
	for _, path := range r.files("ca-2*") {
		if err := os.Rename(path, filepath.Join(r.dir, strings.Replace(filepath.Base(path), "ca-2", "ca-3", 1))); err != nil {
			t.Fatal(err)
		}
	}
	r.wantFault("it is of the chain of ca-2")
}

func TestAnotherIssuerCertifiesAnotherKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	var signs atomic.Pointer[ca.CA]
	signs.Store(r.ca)
	o := r.options("ca-1")
	o.Issuer = func() *x509.Certificate { return signs.Load().Issuer() }
	o.Certify = func(key crypto.PublicKey) ([]*x509.Certificate, error) {
		return signs.Load().CertifyLedger(key, Subject("ca-1"))
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.run(l)
	l.Issued(decision(1))
	signs.Store(next)
	l.certify()
	l.Issued(decision(2))
	eventually(t, "it is signed by the next key", func() bool {
		report, err := Verify(Question{Dir: r.dir, Roots: append(next.Roots(), r.ca.Roots()...)}, nil)
		return err == nil && len(report.Faults) == 0 && report.Chains[0].Signed == report.Chains[0].Last
	})
	r.wantFault("no root that was given vouches for its signer")
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Lines that wait for a full disk may name the next key. The head is signed by a key that a
// line in a file names, or it would look forged.
func TestOnAFullDiskTheHeadIsSignedByAKeyThatIsNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	signs, roots := r.ca, append(next.Roots(), r.ca.Roots()...)
	o := r.options("ca-1")
	o.Issuer = func() *x509.Certificate { return signs.Issuer() }
	o.Certify = func(key crypto.PublicKey) ([]*x509.Certificate, error) {
		return signs.CertifyLedger(key, Subject("ca-1"))
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	step := func(state State, wrong error) {
		t.Helper()
		err := l.flush()
		l.note(err)
		if !errors.Is(err, wrong) {
			t.Fatalf("%v, want %v", err, wrong)
		}
		if err := l.settle(state); err != nil {
			t.Fatal(err)
		}
		report, err := Verify(Question{Dir: r.dir, Roots: roots}, nil)
		if err != nil || len(report.Faults) > 0 || report.Chains[0].Signed != l.written {
			t.Errorf("%s: %v, %+v, want it signed up to %d", state, err, report, l.written)
		}
	}
	l.certify()
	step(StateRunning, nil)
	l.create = func(string) (*os.File, error) { return nil, unix.ENOSPC }
	l.fileBytes = 1
	for range 2 { // the second one finds the first one's line waiting, too
		l.Issued(decision(1))
		next, signs = signs, next
		l.certify()
		step(StateFailing, unix.ENOSPC)
		l.head.said.State = "" // so that it is written again
	}
	l.create = create
	step(StateRunning, nil)
	l.head.close()
	for _, out := range l.open {
		out.Close()
	}
}

// hang is a call to the disk that does not return before its end.
type hang struct {
	t           *testing.T
	began, ends chan struct{}
}

func (h hang) wait() {
	select {
	case h.began <- struct{}{}:
	default:
	}
	select {
	case <-h.ends:
	case <-time.After(20 * time.Second):
		h.t.Error("decisions wait for the disk")
	}
}

// A disk that hangs while the next file is opened, or looked for, keeps no decision waiting,
// and no scrape.
func TestADiskThatHangsKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]func(*Ledger, hang){
		"open": func(l *Ledger, h hang) {
			l.create = func(path string) (*os.File, error) { h.wait(); return create(path) }
		},
		"stat": func(l *Ledger, h hang) {
			l.linked = func(f *os.File) bool {
				if filepath.Ext(f.Name()) != headSuffix {
					h.wait()
				}
				return linked(f)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.keep("ca-1", 1)
			l, h := r.open("ca-1"), hang{t, make(chan struct{}, 1), make(chan struct{})}
			hangs(l, h)
			end := r.run(l)
			decided := make(chan struct{})
			go func() {
				defer close(decided)
				for i := range 20 { // over the end of a file
					l.Issued(decision(i))
				}
			}()
			<-h.began
			<-decided
			l.Stats()
			close(h.ends)
			end()
			r.wantWhole()
		})
	}
}
