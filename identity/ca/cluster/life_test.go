// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/catest"
)

// events are those with a reason.
func (s *apiServer) events(reason ca.Reason) (all []*corev1.Event) {
	for _, o := range s.Objects("events") {
		if e := o.(*corev1.Event); e.Reason == string(reason) {
			all = append(all, e)
		}
	}
	return all
}

// A002-20, A000-16: as kubectl get events --field-selector reason=IssuerUpdated.
func TestWhatHappensToAllReplicasIsOneEventOfTheSecret(t *testing.T) {
	s := startServer(t)
	replicas := []*replica{start(t, s, nil), start(t, s, nil), start(t, s, nil)}
	for _, r := range replicas {
		r.untilReady()
	}
	next := catest.Reissued(t, s.secret())
	s.setSecret(next)
	for _, r := range replicas {
		r.until("it is taken", func() bool { return r.count(ca.IssuerUpdated) == 1 })
	}
	bad := maps.Clone(next)
	bad[ca.IssuerKeyFile] = []byte("garbage")
	s.setSecret(bad)
	for _, r := range replicas {
		r.until("it is refused", func() bool { return r.count(ca.IssuerValidationFailed) == 1 })
	}
	r := replicas[0]
	r.until("both are told", func() bool {
		return len(s.events(ca.IssuerUpdated)) == 1 && len(s.events(ca.IssuerValidationFailed)) == 1
	})
	r.until("by all", func() bool { return s.Asked("create events") >= 6 })
	for _, e := range append(s.events(ca.IssuerUpdated), s.events(ca.IssuerValidationFailed)...) {
		if e.InvolvedObject.Kind != "Secret" || e.InvolvedObject.Name != secretName || e.Namespace != namespace || e.Source.Component != component {
			t.Errorf("it is of %+v", e.InvolvedObject)
		}
	}
	if n := len(s.Objects("events")); n != 2 {
		t.Errorf("%d events", n)
	}
	if e := s.events(ca.IssuerValidationFailed)[0]; e.Type != corev1.EventTypeWarning || !strings.Contains(e.Message, "issuer.key holds no PEM") || strings.Contains(e.Message, "garbage") {
		t.Errorf("%s: %s", e.Type, e.Message)
	}
}

// What happens again is the same Event, counted as often as one replica has seen it: what
// happens once happens to each of them.
func TestAnEventThatHappensAgainIsCountedUp(t *testing.T) {
	s := startServer(t)
	replica := func() *events {
		client := must(dynamic.NewForConfig(s.config()))
		return &events{client: client, about: newObject(client, secrets, namespace+"/"+secretName)}
	}
	one, two := replica(), replica()
	failed := ca.Event{Reason: ca.IssuerRenewalFailed, Warning: true, Message: "no room"}
	other := ca.Event{Reason: ca.IssuerRenewalFailed, Warning: true, Message: "no right"}
	for i, step := range []struct {
		name string
		from *events
		e    ca.Event
		want int32
	}{
		{"it happens to the first replica", one, failed, 1},
		{"and to the second", two, failed, 1},
		{"again", two, failed, 2},
		{"which is as often for both", one, failed, 2},
		{"a replica that is new knows of no time before", replica(), failed, 2},
		{"the first counts on", one, failed, 3},
		{"another reason is another Event", one, other, 1},
	} {
		if err := step.from.write(t.Context(), step.e); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var found []int32
		for _, e := range s.events(ca.IssuerRenewalFailed) {
			if e.Message == step.e.Message {
				found = append(found, e.Count)
			}
			if e.LastTimestamp.Before(&e.FirstTimestamp) {
				t.Errorf("%s: it ended before it began", step.name)
			}
		}
		if !slices.Equal(found, []int32{step.want}) {
			t.Errorf("%d, %s: counted %v, want %d", i, step.name, found, step.want)
		}
	}
	for _, e := range s.Objects("events") { // the API server does so after an hour
		s.Delete(e)
	}
	if err := one.write(t.Context(), failed); err != nil {
		t.Fatal(err)
	}
	if found := s.events(ca.IssuerRenewalFailed); len(found) != 1 || found[0].Count != 1 {
		t.Errorf("after the API server forgot it: %v", found)
	}
}

// A001-2, A001-7: the clock stands eleven months after the issuer was made.
func TestOneOfThreeReplicasRenewsTheIssuer(t *testing.T) {
	s := startServer(t)
	first := start(t, s, nil)
	first.untilReady()
	aged := catest.Aged(t, s.secret())
	s.setSecret(aged)
	replicas := []*replica{first, start(t, s, nil), start(t, s, nil)}
	renewed := func() (n uint64) {
		for _, r := range replicas {
			n += r.count(ca.IssuerRenewed)
		}
		return n
	}
	for _, r := range replicas {
		r.until("the next issuer", func() bool { return r.ca.Issuer() != nil && time.Until(r.ca.Issuer().NotAfter) > 300*24*time.Hour })
		r.until("that of the Secret", func() bool { return encoded(r.ca.Issuer()) == string(s.secret()[ca.IssuerFile]) })
	}
	first.until("one of them says so", func() bool { return renewed() > 0 })
	if renewed() != 1 || s.Asked("update secrets") > 3 {
		t.Errorf("%d made one, with %d writes", renewed(), s.Asked("update secrets"))
	}
	if string(s.secret()[ca.RootFile]) != string(aged[ca.RootFile]) {
		t.Error("with another root")
	}
}

// certManager is what cert-manager keeps in a Secret: no root.key, and no label of ours.
func certManager(files ca.Files) ca.Files {
	return ca.Files{"ca.crt": files[ca.RootFile], "tls.crt": files[ca.IssuerFile], "tls.key": files[ca.IssuerKeyFile]}
}

// dapr#9563: a CA that found its own trace to differ from its operator's certificates
// wrote its own over them. A004-8: cert-manager rotates, and that is taken.
func TestAnOperatorsCertificatesAreNeverOverwritten(t *testing.T) {
	operator := catest.Made(t)
	for name, trace := range map[string]string{"nothing is published": "", "another CA is published": string(catest.Made(t)[ca.RootFile])} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			if trace != "" {
				s.setRoot(trace)
			}
			s.setSecret(certManager(operator))
			r := start(t, s, nil)
			if trace != "" {
				r.untilWaiting("its roots are not among those in ConfigMap")
				s.Delete(s.Objects("configmaps")[0]) // as the message says
			}
			r.untilReady()
			if s.root() != string(operator[ca.RootFile]) {
				t.Errorf("published:\n%s", s.root())
			}
			aged := catest.Aged(t, operator)
			s.setSecret(certManager(aged))
			r.until("what cert-manager did is taken", func() bool { return encoded(r.ca.Issuer()) == string(aged[ca.IssuerFile]) })
			r.until("it is said that nobody renews it", func() bool { return r.count(ca.IssuerExpiring) == 1 })
			s.deleteSecret()
			r.until("its end is said", func() bool { return r.said("ERROR", "it was deleted, and was not Culvert's: put it back") })
			s.setSecret(certManager(operator))
			r.until("it is back", func() bool { return encoded(r.ca.Issuer()) == string(operator[ca.IssuerFile]) })
			if n := s.Asked("update secrets") + s.Asked("create secrets") + s.Asked("patch secrets"); n != 0 {
				t.Errorf("%d writes to Secrets", n)
			}
		})
	}
}

// A Secret in our own layout, with the root's key, that somebody else made is theirs too.
func TestASecretWithoutOurLabelIsNotRenewed(t *testing.T) {
	s := startServer(t)
	s.setSecret(catest.Aged(t, catest.Made(t)))
	r := start(t, s, nil)
	r.untilReady()
	r.until("that is said", func() bool { return r.keeper.Renewal().State == ca.RenewalReadOnly })
	if n := s.Asked("update secrets"); n != 0 {
		t.Errorf("%d writes", n)
	}
}

func TestASecretThatExistsWithoutACAIsNotFilled(t *testing.T) {
	s := startServer(t)
	s.setSecret(ca.Files{"unrelated": []byte("yes")})
	r := start(t, s, nil)
	r.untilWaiting("root.pem is missing")
	if n := s.Asked("update secrets") + s.Asked("create secrets"); n != 0 || s.root() != "" {
		t.Errorf("%d writes", n)
	}
}

// cert-manager may be slower than the CA. A001-7
func TestACAOfAnOperatorIsWaitedForIfNoneIsToBeMade(t *testing.T) {
	s := startServer(t)
	r := start(t, s, func(o *Options) { o.CA = must(ca.New(ca.Options{TrustDomain: td, MustExist: true})) })
	r.untilWaiting("Secret culvert-system/culvert-ca holds no CA yet, and none is to be made")
	files := catest.Made(t)
	s.setSecret(certManager(files))
	r.untilReady()
	if n := s.Asked("create secrets"); n != 0 || s.root() != string(files[ca.RootFile]) {
		t.Errorf("%d Secrets made; published:\n%s", n, s.root())
	}
}

// The text of the ConfigMap is gone with the Secret; the annotation remembers.
func TestTheRecordAloneIsTheTraceOfACA(t *testing.T) {
	s := startServer(t)
	first := start(t, s, nil)
	first.untilReady()
	var record map[string]string
	for _, o := range s.Objects("configmaps") {
		record = o.GetAnnotations()
	}
	if !strings.Contains(record[recordKey], `"generation":`) {
		t.Fatalf("annotations %v", record)
	}
	other := startServer(t)
	other.Set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootName, Annotations: record}})
	start(t, other, nil).untilWaiting("there is none, and ConfigMap culvert-system/culvert-root holds the root of a CA")
	if other.secret() != nil {
		t.Error("another CA was made")
	}
}

// A000-17, C.2, the CA's part of it: another root in three steps, and no restart.
func TestARootThatIsDroppedFromTheSecretIsTakenOutOfWhatNodesTrust(t *testing.T) {
	s := startServer(t)
	replicas := []*replica{start(t, s, nil), start(t, s, nil)}
	for _, r := range replicas {
		r.untilReady()
	}
	former, next, foreign := s.secret(), catest.Made(t), string(catest.Made(t)[ca.RootFile])
	s.setRoot(s.root() + foreign)
	both := maps.Clone(former)
	both[ca.RootFile] = append(bytes.Clone(former[ca.RootFile]), next[ca.RootFile]...)
	var last uint64
	for _, step := range []struct {
		name  string
		files ca.Files
		roots []string // published, beside the foreign one
	}{
		{"the next root is added", both, []string{string(former[ca.RootFile]), string(next[ca.RootFile])}},
		{"its issuer signs", ca.Files{ca.RootFile: both[ca.RootFile], ca.IssuerFile: next[ca.IssuerFile], ca.IssuerKeyFile: next[ca.IssuerKeyFile]},
			[]string{string(former[ca.RootFile]), string(next[ca.RootFile])}},
		{"the former root is dropped", next, []string{string(next[ca.RootFile])}},
	} {
		s.setSecret(step.files)
		for _, r := range replicas {
			r.until(step.name, func() bool {
				generation, roots := r.ca.Bundle()
				return len(roots) == len(step.roots) && generation >= last && encoded(r.ca.Issuer()) == string(step.files[ca.IssuerFile])
			})
		}
		replicas[0].until("it is published: "+step.name, func() bool {
			published, _ := parseRoots([]byte(s.root()))
			return len(published) == len(step.roots)+1
		})
		for _, want := range append(step.roots, foreign) {
			if !strings.Contains(s.root(), want) {
				t.Errorf("%s: published:\n%s", step.name, s.root())
			}
		}
		replicas[0].until("both have one generation", func() bool {
			one, _ := replicas[0].ca.Bundle()
			other, _ := replicas[1].ca.Bundle()
			return one == other
		})
		last, _ = replicas[0].ca.Bundle()
	}
	replicas[0].until("Events tell it", func() bool { return s.events(ca.RootAdded) != nil && s.events(ca.RootDropped) != nil })
}

func TestAReplicaThatIsBehindPutsNoDroppedRootBack(t *testing.T) {
	one, two := catest.Made(t)[ca.RootFile], catest.Made(t)[ca.RootFile]
	first, _ := parseRoots(one)
	second, _ := parseRoots(two)
	names := ca.Fingerprints(first)
	old := ca.Record{Generation: 7, Roots: names}
	young := ca.Record{Generation: 8, Roots: ca.Fingerprints(second), Dropped: names}
	for name, test := range map[string]struct {
		text, want   string
		ours, theirs ca.Record
	}{
		"it is behind":                    {string(two), string(two), old, young},
		"it is not":                       {string(two), string(two) + string(one), young, old},
		"nobody recorded anything":        {string(two), string(two) + string(one), old, ca.Record{}},
		"it is behind, and all were lost": {"", "", old, young},
	} {
		if name == "it is not" {
			test.ours.Roots, test.ours.Dropped = append(young.Roots, names...), nil
		}
		if got := withRoots(test.text, first, test.ours, test.theirs); got != test.want {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	if got := withRoots(string(one)+string(two), second, young, young); got != string(two) {
		t.Errorf("a dropped root stays:\n%s", got)
	}
	if got := withRoots(string(one)+string(two), second, young, ca.Record{}); got != string(two) {
		t.Errorf("a root that was dropped before anybody recorded it stays:\n%s", got)
	}
}
