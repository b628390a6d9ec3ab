// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/identity/ca"
)

func TestTheRootIsPublishedAndRepaired(t *testing.T) {
	s := startServer(t)
	r := start(t, s, nil)
	r.untilReady()
	ours := string(s.secret()[ca.RootFile])
	if s.root() != ours {
		t.Fatalf("published:\n%s", s.root())
	}
	for _, edit := range []func(){
		func() { s.setRoot("") },
		func() { s.setRoot("nonsense") },
		func() { s.Delete(s.Objects("configmaps")[0]) },
		func() {
			s.Set(&corev1.ConfigMap{ObjectMeta: s.Objects("configmaps")[0].(*corev1.ConfigMap).ObjectMeta})
		},
	} {
		edit()
		r.until("repaired", func() bool { return s.root() == ours })
	}
	r.until("all are counted", func() bool { return r.Events()[rootPublished] == 5 })
}

func TestARootOfAnotherHandStays(t *testing.T) {
	another := string(made(t)[ca.RootFile])
	s := startServer(t)
	r := start(t, s, nil)
	r.untilReady()
	ours := string(s.secret()[ca.RootFile])
	s.setRoot("# the next root\n" + another)
	r.until("both", func() bool { return s.root() == another+ours })
	// With both in it, it is nobody's business in which order and with what comments.
	order := "# ours\n" + ours + "# next\n" + another
	s.setRoot(order)
	time.Sleep(2 * time.Second)
	if s.root() != order {
		t.Errorf("now:\n%s", s.root())
	}
}

func TestWhatIsNoRootIsTakenOut(t *testing.T) {
	files := made(t)
	ours := string(files[ca.RootFile])
	root, _ := parseRoots(files[ca.RootFile])
	for name, text := range map[string]string{
		"a private key":    ours + string(files[ca.RootKeyFile]),
		"twice":            ours + ours,
		"cut off":          ours + ours[:100],
		"a broken one":     "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + ours,
		"nothing":          "",
		"windows newlines": strings.ReplaceAll(ours[:len(ours)/2], "\n", "\r\n"),
	} {
		if got := withRoots(text, root, ca.Record{}, ca.Record{}); got != ours {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	if same := strings.ReplaceAll(ours, "\n", "\r\n"); withRoots(same, root, ca.Record{}, ca.Record{}) != same {
		t.Error("a text that says the same is changed")
	}
}

func TestTheTrustBundleGetsTheRootWhereItIsServed(t *testing.T) {
	s := startServer(t)
	with := func(o *Options) { o.TrustBundle = "culvert" }
	r := start(t, s, with)
	r.untilReady() // without
	if s.bundle() != "" {
		t.Fatal("it is not served")
	}
	s.Offer(trustBundle)
	next := start(t, s, with)
	next.untilReady()
	if s.bundle() != string(s.secret()[ca.RootFile]) {
		t.Errorf("published:\n%s", s.bundle())
	}
	// It is a trace, too, of a CA whose namespace was deleted.
	s.deleteSecret()
	s.Delete(s.Objects("configmaps")[0])
	start(t, s, with).untilWaiting("ClusterTrustBundle culvert holds the root of a CA")
}
