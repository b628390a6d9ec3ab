// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// made are the files of a CA that never was in this cluster.
func made(t *testing.T) ca.Files {
	t.Helper()
	s := startServer(t)
	r := start(t, s, nil)
	r.untilReady()
	return s.secret()
}

// reissued are the files with another issuer under the same root, as by openssl.
func reissued(t *testing.T, files ca.Files) ca.Files {
	t.Helper()
	root := must(x509.ParseCertificate(blockOf(files[ca.RootFile])))
	rootKey := must(x509.ParsePKCS8PrivateKey(blockOf(files[ca.RootKeyFile])))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "another issuer"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, root, key.Public(), rootKey))
	next := maps.Clone(files)
	next[ca.IssuerFile] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	next[ca.IssuerKeyFile] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
	return next
}

func blockOf(text []byte) []byte {
	block, _ := pem.Decode(text)
	return block.Bytes
}

func encoded(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

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
			client := must(dynamic.NewForConfig(s.config()))
			p := &published{object: newObject(client, configMaps, namespace+"/"+rootName), path: []string{"data", ca.RootFile}}
			k := &Keeper{ca: cas[i], log: quiet, events: map[string]uint64{}, roots: []*published{p}, secret: &secret{object: newObject(client, secrets, namespace+"/"+secretName), traces: []*published{p}}}
			wg.Go(func() {
				// As Run does: what one has published by now, another finds while it starts.
				if err := k.ca.Load(t.Context(), k.secret); err != nil {
					t.Error(err)
				}
				for k.publish(t.Context(), p) != nil && t.Context().Err() == nil {
				}
			})
		}
		wg.Wait()
		for _, c := range cas {
			if c.Roots() == nil || encoded(c.Roots()[0]) != string(s.secret()[ca.RootFile]) || encoded(c.Issuer()) != string(s.secret()[ca.IssuerFile]) {
				t.Fatal("a replica has another CA than the Secret")
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
	if r.ca.Issuer() != nil || !r.log.has("ERROR", "restore the Secret") {
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
	r.untilWaiting("its root.pem is not among the roots in ConfigMap culvert-system/culvert-root, which nodes trust")
	if r.ca.Issuer() != nil {
		t.Error("it signs")
	}
}

func TestASecretThatIsNoCAIsRefusedNamingTheKeyAndNeverOverwritten(t *testing.T) {
	good := made(t)
	for want, spoil := range map[string]func(ca.Files){
		"issuer.key is missing":                func(f ca.Files) { delete(f, ca.IssuerKeyFile) },
		"root.pem is missing":                  func(f ca.Files) { clear(f) },
		"issuer.pem holds no PEM":              func(f ca.Files) { f[ca.IssuerFile] = []byte{} },
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
	next := reissued(t, first)
	s.setSecret(next)
	began := time.Now()
	for _, r := range replicas {
		r.until("the new issuer", func() bool { return encoded(r.ca.Issuer()) == string(next[ca.IssuerFile]) })
	}
	t.Logf("after %v", time.Since(began))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	r := replicas[0]
	r.until("it is counted", func() bool { return r.Events()[issuerTaken] == 1 })

	bad := maps.Clone(next)
	bad[ca.IssuerKeyFile] = first[ca.IssuerKeyFile]
	s.setSecret(bad)
	r.until("it is refused", func() bool { return r.Events()[issuerRefused] == 1 })
	r.until("the log says so", func() bool { return r.log.has("ERROR", "issuer.key does not belong to issuer.pem") })
	s.setSecret(made(t))
	r.until("another root is refused", func() bool { return r.Events()[issuerRefused] == 2 })
	if encoded(r.ca.Issuer()) != string(next[ca.IssuerFile]) || r.Waiting() != nil {
		t.Errorf("not the good one; waiting for %v", r.Waiting())
	}
	s.setSecret(next)
	r.until("the log says that it is over", func() bool { return r.log.has("INFO", "well again") })
}

func TestASecretThatIsDeletedWhileReplicasRunIsMadeAgain(t *testing.T) {
	s := startServer(t)
	r, other := start(t, s, nil), start(t, s, nil)
	r.untilReady()
	other.untilReady()
	before := s.secret()
	s.deleteSecret()
	r.until("the log says so", func() bool { return r.log.has("ERROR", "it was deleted") })
	if s.secret() != nil {
		t.Error("at once: whoever replaces it by deleting it first cannot")
	}
	r.until("it is back", func() bool { return s.secret() != nil })
	if string(s.secret()[ca.RootFile]) != string(before[ca.RootFile]) || string(s.secret()[ca.IssuerKeyFile]) != string(before[ca.IssuerKeyFile]) {
		t.Error("with something else")
	}
	r.until("one of them counts it", func() bool { return r.Events()[secretRestored]+other.Events()[secretRestored] == 1 })
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
	if r.Waiting() != nil || r.ca.Issuer() == nil {
		t.Error(r.Waiting())
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
