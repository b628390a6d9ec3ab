// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// renewed asks for one identity, and returns what came of it.
func renewed(t *testing.T, r *rig) Renewed {
	t.Helper()
	all := r.Renew(t.Context(), web)
	if len(all) != 1 || all[0].Identity != web.String() {
		t.Fatalf("%+v", all)
	}
	return all[0]
}

func TestASVIDIsRenewedOnDemand(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web, db)
		pass(time.Minute)
		r.issuer.requests()
		former, other := r.leaf(web), r.leaf(db)
		got := renewed(t, r)
		if got.Error != "" || !got.Held || got.Serial != r.leaf(web).SerialNumber.Text(16) || r.leaf(web).Equal(former) || got.Until.IsZero() {
			t.Errorf("%+v", got)
		}
		if asked := r.issuer.requests(); len(asked) != 1 || !r.leaf(db).Equal(other) {
			t.Errorf("%d requests", len(asked))
		}
		synctest.Wait() // the answer does not wait for those who are told
		if rotated := r.rotations(); len(rotated) != 1 || rotated[0] != web {
			t.Errorf("rotated %v", rotated)
		}
		all := r.Renew(t.Context())
		if len(all) != 2 || r.leaf(db).Equal(other) {
			t.Errorf("%+v", all)
		}
	})
}

func TestNobodyRenewsAnIdentityMoreThanEveryFewSeconds(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		pass(time.Minute)
		r.issuer.requests()
		for range 100 {
			renewed(t, r)
		}
		pass(2 * time.Second)
		if got := renewed(t, r); got.Error != "it was asked for 2s ago: try again in 3s" || got.Serial != "" {
			t.Errorf("%+v", got)
		}
		if asked := r.issuer.requests(); len(asked) != 1 {
			t.Errorf("%d requests", len(asked))
		}
		pass(3 * time.Second)
		if got := renewed(t, r); got.Error != "" {
			t.Errorf("%+v", got)
		}
	})
}

func TestARenewalThatFailsLeavesTheSVIDInForceAndSaysWhy(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		if got := renewed(t, r); got.Error != "no pod of it is enrolled here" || got.Held {
			t.Errorf("%+v", got)
		}
		release := r.Hold(web)
		pass(time.Minute)
		former := r.leaf(web)
		r.issuer.set(func() { r.issuer.err = errDown })
		if got := renewed(t, r); !strings.Contains(got.Error, errDown.Error()) || !r.leaf(web).Equal(former) {
			t.Errorf("%+v", got)
		}
		pass(time.Minute)
		gate := make(chan struct{})
		r.issuer.set(func() { r.issuer.err, r.issuer.gate = nil, gate })
		patient := func() Renewed {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("too long"))
			defer cancel()
			return r.Renew(ctx, web)[0]
		}
		got := patient()
		for ; strings.HasPrefix(got.Error, "it was asked for"); got = patient() { // by the Store itself, as it failed
			pass(time.Second)
		}
		if got.Error != "no answer of the CA yet: too long" {
			t.Errorf("%+v", got)
		}
		// The attempt is still under way, and counts for whoever asks meanwhile.
		ended := make(chan Renewed)
		go func() { ended <- r.Renew(t.Context(), web)[0] }()
		synctest.Wait()
		gate <- struct{}{}
		if got := <-ended; got.Error != "" || r.leaf(web).Equal(former) {
			t.Errorf("%+v", got)
		}
		pass(time.Minute)
		go func() { ended <- r.Renew(t.Context(), web)[0] }()
		synctest.Wait()
		release()
		if got := <-ended; got.Error != "its last pod is gone" {
			t.Errorf("%+v", got)
		}
	})
}
