// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/catest"
	"github.com/culvert-mesh/culvert/test/env"
)

// made are the files of a CA that never was in this cluster.
func made(t *testing.T) ca.Files { return catest.Made(t) }

func encoded(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func TestASecretIsAStore(t *testing.T) {
	catest.Conform(t, func(t *testing.T) catest.Place { return place{startServer(t)} })
}

// place is a Secret and a ConfigMap without Publishers.
type place struct{ *apiServer }

func (p place) Store(t testing.TB) ca.Store {
	return must(New(Options{API: p.config(), CA: must(ca.New(ca.Options{TrustDomain: td})), Secret: namespace + "/" + secretName, ConfigMap: namespace + "/" + rootName})).Store()
}

func (p place) Files(testing.TB) ca.Files { return p.secret() }

func (p place) Set(_ testing.TB, files ca.Files) { p.setSecret(files) }

// A001-7
func TestThreeReplicasThatStartColdMakeOneRoot(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		s := startServer(t)
		cas := make([]*ca.CA, 3)
		var wg sync.WaitGroup
		for i := range cas {
			cas[i] = must(ca.New(ca.Options{TrustDomain: td}))
			p := must(New(Options{API: s.config(), CA: cas[i], Secret: namespace + "/" + secretName, ConfigMap: namespace + "/" + rootName}))
			wg.Go(func() {
				// As Run does: what one has published by now, another finds while it starts.
				if err := cas[i].Load(t.Context(), p.Store()); err != nil {
					t.Error(err)
				}
				for p.publish(t.Context(), p.roots[0]) != nil && t.Context().Err() == nil {
				}
			})
		}
		wg.Wait()
		want, _ := cas[0].Bundle()
		for _, c := range cas {
			if c.Roots() == nil || encoded(c.Roots()[0]) != string(s.secret()[ca.RootFile]) || encoded(c.Issuer()) != string(s.secret()[ca.IssuerFile]) {
				t.Fatal("a replica has another CA than the Secret")
			}
			if generation, _ := c.Bundle(); generation != want {
				t.Errorf("generation %d and %d of one bundle", generation, want)
			}
		}
		if s.root() != encoded(cas[0].Roots()[0]) {
			t.Fatalf("published:\n%s", s.root())
		}
		s.stop()
	}
}

func TestARootWithoutItsSecretIsTheTraceOfAnOlderCA(t *testing.T) {
	older := string(made(t)[ca.RootFile])
	s := startServer(t)
	s.setRoot(older)
	r := start(t, s, nil)
	r.untilWaiting("there is none, and ConfigMap culvert-system/culvert-root holds the root of a CA: restore the Secret from a backup")
	time.Sleep(300 * time.Millisecond)
	if s.secret() != nil || s.root() != older || r.ca.Issuer() != nil {
		t.Fatal("another CA was made")
	}
	if r.ca.Issuer() != nil || !r.said("ERROR", "restore the Secret") {
		t.Errorf("log:\n%s", r.log)
	}
	// What the sentence says helps, and no restart is needed.
	s.Delete(s.Objects("configmaps")[0])
	r.untilReady()
	if s.root() == older || s.root() != string(s.secret()[ca.RootFile]) {
		t.Errorf("published:\n%s", s.root())
	}
}

func TestASecretOfAnotherRootThanNodesTrustIsRefused(t *testing.T) {
	s := startServer(t)
	s.setRoot(string(made(t)[ca.RootFile]))
	before := made(t)
	s.setSecret(before)
	r := start(t, s, nil)
	r.untilWaiting("its roots are not among those in ConfigMap culvert-system/culvert-root, which nodes trust")
	if r.ca.Issuer() != nil {
		t.Error("it signs")
	}
}

// A backup of before the renewal of the root was restored, and the former certificate is
// published no more: nodes know the root all the same.
func TestASecretOfTheFormerCertificateOfTheRootThatNodesTrustIsTaken(t *testing.T) {
	s := startServer(t)
	backup := made(t)
	block, _ := pem.Decode(backup[ca.RootKeyFile])
	renewed := must(ca.NextRoot(backup, must(x509.ParsePKCS8PrivateKey(block.Bytes)).(crypto.Signer), ca.Options{RootTTL: 20 * 365 * 24 * time.Hour}))
	_, former := pem.Decode(renewed[ca.RootFile])
	s.setRoot(strings.TrimSuffix(string(renewed[ca.RootFile]), string(former)))
	s.setSecret(backup)
	start(t, s, nil).untilReady()
}

func TestASecretThatIsNoCAIsRefusedNamingTheKeyAndNeverOverwritten(t *testing.T) {
	good := made(t)
	for want, spoil := range map[string]func(ca.Files){
		"issuer.key is missing":                func(f ca.Files) { delete(f, ca.IssuerKeyFile) },
		"root.pem is missing":                  func(f ca.Files) { clear(f) },
		"issuer.pem is empty":                  func(f ca.Files) { f[ca.IssuerFile] = []byte{} },
		"root.key does not belong to root.pem": func(f ca.Files) { f[ca.RootKeyFile] = f[ca.IssuerKeyFile] },
	} {
		t.Run(want, func(t *testing.T) {
			files := maps.Clone(good)
			spoil(files)
			s := startServer(t)
			s.setSecret(files)
			r := start(t, s, nil)
			r.untilWaiting(want)
			if !maps.EqualFunc(s.secret(), files, func(a, b []byte) bool { return string(a) == string(b) }) {
				t.Error("it was changed")
			}
			s.setSecret(good) // mended; no restart is needed
			r.untilReady()
		})
	}
}

func TestANewIssuerIsTakenLiveAndABadOneLeavesTheGoodOneInForce(t *testing.T) {
	s := startServer(t)
	replicas := []*replica{start(t, s, nil), start(t, s, nil)}
	for _, r := range replicas {
		r.untilReady()
	}
	first := s.secret()
	next := catest.Reissued(t, first)
	s.setSecret(next)
	watch := env.NewStopwatch()
	for _, r := range replicas {
		r.until("the new issuer", func() bool { return encoded(r.ca.Issuer()) == string(next[ca.IssuerFile]) })
	}
	if took := watch.Elapsed(); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	r := replicas[0]
	r.until("it is counted", func() bool { return r.count(ca.IssuerUpdated) == 1 })

	bad := maps.Clone(next)
	bad[ca.IssuerKeyFile] = first[ca.IssuerKeyFile]
	s.setSecret(bad)
	r.until("it is refused", func() bool { return r.count(ca.IssuerValidationFailed) == 1 })
	r.until("the log says so", func() bool { return r.said("ERROR", "issuer.key does not belong to issuer.pem") })
	s.setSecret(made(t))
	r.until("another root is refused", func() bool { return r.count(ca.IssuerValidationFailed) == 2 })
	if encoded(r.ca.Issuer()) != string(next[ca.IssuerFile]) || r.waiting() != nil {
		t.Errorf("not the good one; waiting for %v", r.waiting())
	}
	s.setSecret(next)
	r.until("the log says that it is over", func() bool { return r.said("INFO", "well again") })
}

func TestASecretThatIsDeletedWhileReplicasRunIsMadeAgain(t *testing.T) {
	s := startServer(t)
	r, other := start(t, s, nil), start(t, s, nil)
	r.untilReady()
	other.untilReady()
	before := s.secret()
	s.deleteSecret()
	r.until("the log says so", func() bool { return r.said("ERROR", "it was deleted") })
	if s.secret() != nil {
		t.Error("at once: whoever replaces it by deleting it first cannot")
	}
	r.until("it is back", func() bool { return s.secret() != nil })
	if string(s.secret()[ca.RootFile]) != string(before[ca.RootFile]) || string(s.secret()[ca.IssuerKeyFile]) != string(before[ca.IssuerKeyFile]) {
		t.Error("with something else")
	}
	r.until("one of them counts it", func() bool { return r.count(ca.StoreRestored)+other.count(ca.StoreRestored) == 1 })
}

func TestAnAPIServerThatIsAwayAtStartIsWaitedFor(t *testing.T) {
	s := startServer(t)
	s.stop()
	r := start(t, s, nil)
	r.untilWaiting("Secret culvert-system/culvert-ca: open CA: ConfigMap culvert-system/culvert-root: the API server: ")
	s.start()
	r.untilReady()
	// It serves on when that is away again.
	s.stop()
	time.Sleep(300 * time.Millisecond)
	if r.waiting() != nil || r.ca.Issuer() == nil {
		t.Error(r.waiting())
	}
}

func TestWhatTheRoleForbidsIsSaid(t *testing.T) {
	s := startServer(t)
	s.Refuse("create secrets", &apierrors.StatusError{ErrStatus: apierrors.NewForbidden(secrets.versions[0].GroupResource(), secretName, nil).ErrStatus})
	r := start(t, s, nil)
	r.untilWaiting("is forbidden")
	s.Refuse("create secrets", nil)
	r.untilReady()
}

// A create whose answer is lost is found at the next look.
func TestACreateWithoutAnAnswerIsNoSecondRoot(t *testing.T) {
	s := startServer(t)
	config := s.config()
	config.Transport = &losing{next: config.Transport}
	r := start(t, s, func(o *Options) { o.API = config })
	r.untilReady()
	if s.Asked("create secrets") != 1 || encoded(r.ca.Roots()[0]) != string(s.secret()[ca.RootFile]) {
		t.Errorf("%d creates", s.Asked("create secrets"))
	}
}

// losing loses the answer to the first create of a Secret.
type losing struct {
	next http.RoundTripper
	once sync.Once
}

func (l *losing) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.next.RoundTrip(r)
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/secrets") {
		l.once.Do(func() {
			answer.Body.Close()
			answer, err = nil, context.DeadlineExceeded
		})
	}
	return answer, err
}
