// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const month = 30 * 24 * time.Hour

// A001-2: the machine slept for eleven months.
func TestAfterElevenMonthsOneReplicaRenewsTheIssuerAndAllTakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		replicas := []kept{open(t, store), open(t, store), open(t, store)}
		former := replicas[0].ca.Issuer()
		time.Sleep(5 * month)
		lookAll(t, replicas)
		if !replicas[0].ca.Issuer().Equal(former) {
			t.Fatal("before half its life")
		}
		leaf := sign(t, replicas[0].ca, plainCSR(t), time.Hour)
		time.Sleep(6 * month)
		leafLater := sign(t, replicas[0].ca, plainCSR(t), time.Hour)
		lookAll(t, replicas)
		lookAll(t, replicas)
		var renewed uint64
		for _, r := range replicas {
			renewed += r.Events()[IssuerRenewed]
			if issuer := r.ca.Issuer(); issuer.Equal(former) || !issuer.Equal(replicas[0].ca.Issuer()) {
				t.Error("replicas sign by different issuers")
			}
			if r.Events()[IssuerUpdated] != 1 {
				t.Errorf("told %v", *r.told)
			}
		}
		if renewed != 1 {
			t.Errorf("%d replicas made an issuer, want one", renewed)
		}
		next := replicas[0].ca.Issuer()
		if life := time.Until(next.NotAfter); life < 364*24*time.Hour || life > 366*24*time.Hour {
			t.Errorf("the next issuer lives for %v", life)
		}
		// What the former issuer signed is as good as before: it comes with its chain.
		pool, between := x509.NewCertPool(), x509.NewCertPool()
		pool.AddCert(replicas[0].ca.Roots()[0])
		between.AddCert(former)
		if _, err := leafLater.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between}); err != nil {
			t.Error(err)
		}
		if leaf.NotAfter.After(former.NotAfter) {
			t.Error("a leaf outlives its issuer")
		}
	})
}

func lookAll(t *testing.T, replicas []kept) {
	t.Helper()
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() {
			if err := r.look(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A002-16: through all of the root's life, with nobody's help.
func TestIssuersFollowEachOtherUntilTheRootEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		k := open(t, store)
		root := k.ca.Roots()[0]
		for time.Until(root.NotAfter) > 2*month {
			time.Sleep(month)
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := time.Until(k.ca.NotAfter()); left < month {
				t.Fatalf("%v left of the issuer", left)
			}
		}
		if n := k.Events()[IssuerRenewed]; n < 15 || n > 22 {
			t.Errorf("%d renewals in ten years", n)
		}
		if r := k.Renewal(); r.State != RenewalRootEnds || !k.ca.Issuer().NotAfter.Equal(root.NotAfter) {
			t.Errorf("%+v", r)
		}
		if k.Events()[IssuerExpiring] == 0 {
			t.Error("nobody was told that the root ends")
		}
	})
}

func TestAnIssuerThatExpiredWhileNobodyRanIsRenewedByTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		root := open(t, store).ca.Roots()[0]
		time.Sleep(20 * month)
		k := open(t, store)
		if !k.ca.Roots()[0].Equal(root) || k.Events()[IssuerRenewed] != 1 || time.Until(k.ca.NotAfter()) < 11*month {
			t.Errorf("told %v", *k.told)
		}
		// Not so if the root has gone with it.
		time.Sleep(200 * month)
		if err := keep(t, store).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "root.pem has expired") {
			t.Error(err)
		}
	})
}

// A000-2, A000-5: an offline root, and what of the kind Culvert does not renew.
func TestAnIssuerThatIsNotRenewedIsSaidFromHalfItsLifeOn(t *testing.T) {
	for name, story := range map[string]struct {
		change func(t *testing.T, files Files) Files
		state  RenewalState
		says   string
	}{
		"the root's key is elsewhere": {func(_ *testing.T, files Files) Files {
			delete(files, RootKeyFile)
			return files
		}, RenewalOffline, "root.key is not where the CA is"},
		// dapr#9563
		"the issuer is its operator's": {func(t *testing.T, files Files) Files {
			return reissued(t, files, func(cert *x509.Certificate) { cert.NotAfter = time.Now().Add(365 * 24 * time.Hour) })
		}, RenewalOperator, "which did not make it"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &Memory{}
				store.Set(story.change(t, made(t)))
				before, _ := store.Read(t.Context())
				k := open(t, store)
				if r := k.Renewal(); r.State != story.state || !strings.Contains(k.log.String(), story.says) {
					t.Errorf("%+v; log:\n%s", r, k.log)
				}
				for day := range 300 {
					time.Sleep(24 * time.Hour)
					for range 2 {
						if err := k.look(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if told := k.Events()[IssuerExpiring]; (told > 0) != (day >= 182) {
						t.Fatalf("on day %d it was told %d times", day, told)
					}
				}
				reason, says := k.last()
				if reason != IssuerExpiring || !strings.Contains(says, story.says) || k.Events()[IssuerExpiring] > 120 {
					t.Errorf("told %d times, last %s: %s", k.Events()[IssuerExpiring], reason, says)
				}
				if after, _ := store.Read(t.Context()); !after.Same(before) {
					t.Error("it was written over")
				}
				// Another issuer by hand, and all is well.
			})
		})
	}
}

func TestAStoreThatCannotBeWrittenIsNotRenewedAndThatIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{}
		k := open(t, store)
		issuer := k.ca.Issuer()
		store.err = ErrReadOnly
		time.Sleep(7 * month)
		for range 2 {
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r := k.Renewal(); r.State != RenewalReadOnly || k.Events()[IssuerExpiring] != 1 || !k.ca.Issuer().Equal(issuer) {
			t.Errorf("%+v, told %v", r, *k.told)
		}
	})
}

func TestARenewalThatCannotBeStoredIsToldOnceAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{}
		k := open(t, store)
		issuer := k.ca.Issuer()
		store.err = context.DeadlineExceeded
		time.Sleep(7 * month)
		for range 3 {
			if k.look(t.Context()) == nil {
				t.Fatal("no error")
			}
		}
		if k.Events()[IssuerRenewalFailed] != 1 || !k.ca.Issuer().Equal(issuer) {
			t.Errorf("told %v", *k.told)
		}
		store.err = nil
		if err := k.look(t.Context()); err != nil || k.Events()[IssuerRenewed] != 1 {
			t.Errorf("%v, told %v", err, *k.told)
		}
	})
}

// Somebody put a whole CA of their own in the place of ours. It is refused, and its
// issuer is not renewed for them.
func TestAnIssuerUnderARootThatIsNotInForceIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		k := open(t, store)
		other := made(t)
		time.Sleep(7 * month)
		store.Set(maps.Clone(other))
		if k.look(t.Context()) == nil {
			t.Fatal("taken")
		}
		if after, _ := store.Read(t.Context()); !after.Same(other) || k.Events()[IssuerRenewed] != 0 {
			t.Error("it was written over")
		}
	})
}

// A001-12: the CA's own certificate lives for a day.
func TestTheServersCertificateNeverExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := open(t, &Memory{})
		certificate := k.ca.ServerCertificate("ca.test")
		seen := map[string]bool{}
		for range 3 * 24 * 4 {
			cert, err := certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(cert.Leaf.NotAfter); left < 11*time.Hour {
				t.Fatalf("%v left", left)
			}
			seen[cert.Leaf.SerialNumber.String()] = true
			time.Sleep(15 * time.Minute)
		}
		if len(seen) < 6 || len(seen) > 8 {
			t.Errorf("%d certificates in three times their life", len(seen))
		}
	})
}
