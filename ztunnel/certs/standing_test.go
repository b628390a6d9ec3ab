// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// asked is an issuer that can also be asked about the node.
type asked struct {
	issuer
	answer Answer
	reason Reason // why it would not sign; none
	checks []time.Time
}

func (a *asked) Check(context.Context) (Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks = append(a.checks, time.Now())
	if a.reason != "" {
		return Answer{}, problem(a.reason, "it is %s", a.reason)
	}
	return a.answer, nil
}

// count returns how many checks there were since the last call.
func (a *asked) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.checks)
	a.checks = nil
	return n
}

// node is a running Store of node-1 whose CA can be asked about it.
func node(t *testing.T, ca *asked) (*Store, *bytes.Buffer) {
	t.Helper()
	ca.ca = newCA(t, td)
	log := &bytes.Buffer{} // read while all is at rest
	store := New(Config{TrustDomain: td, Node: "node-1", Issuer: ca, Log: slog.New(slog.NewTextHandler(log, nil)),
		Remedy: func(r Reason) string { return "-" + string(r) }})
	runUntilEnd(t, store)
	return store, log
}

func wantStanding(t *testing.T, s *Store, ready bool, reason Reason, text string) {
	t.Helper()
	synctest.Wait()
	if got := s.Standing(); got.Ready != ready || got.Reason != reason || !strings.Contains(got.Problem, text) || (text == "") != (got.Problem == "") {
		t.Errorf("%+v, want ready=%v %s %q", got, ready, reason, text)
	}
}

func TestNodeWithoutPodsIsReadyOnceTheCAWouldSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &asked{reason: "token_expired"}
		s, log := node(t, ca)
		wantStanding(t, s, false, "token_expired", "it is token_expired (-token_expired)")
		since := s.Standing().Since
		pass(time.Hour)
		wantStanding(t, s, false, "token_expired", "it is token_expired (-token_expired)")
		if got := s.Standing().Since; !got.Equal(since) {
			t.Errorf("since %v, want %v", got, since)
		}
		if n := ca.count(); n < 700 || n > 1500 {
			t.Errorf("asked %d times in an hour, want every 5 s or sooner", n)
		}
		if n := strings.Count(log.String(), "does not sign"); n != 1 {
			t.Errorf("said %d times: %s", n, log)
		}
		ca.set(func() { ca.reason = "" })
		pass(checkAgain)
		wantStanding(t, s, true, Signs, "")
		if n := strings.Count(log.String(), "the CA signs for this node"); n != 1 {
			t.Errorf("said %d times: %s", n, log)
		}
		ca.count()
		pass(time.Hour)
		if n := ca.count(); n < 40 || n > 90 {
			t.Errorf("asked %d times in an hour, want about every minute", n)
		}
	})
}

// A refusal after the first answer does not make the node unready: what is open
// goes on. But it is said.
func TestRefusalOfAReadyNodeIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &asked{}
		s, log := node(t, ca)
		wantStanding(t, s, true, Signs, "")
		ca.set(func() { ca.reason = "token_key_unknown" })
		pass(2 * checkEvery)
		wantStanding(t, s, true, "token_key_unknown", "it is")
		if !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("not said: %s", log)
		}
		ca.set(func() { ca.reason = Unreachable })
		pass(2 * checkEvery)
		wantStanding(t, s, true, Unreachable, "it is")
		if !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("not said: %s", log)
		}
		ca.set(func() { ca.reason = "" })
		pass(checkAgain)
		wantStanding(t, s, true, Signs, "")
	})
}

func TestSVIDThatIsRefusedRaisesDoubts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &asked{}
		s, _ := node(t, ca)
		wantStanding(t, s, true, Signs, "")
		pass(checkAgain)
		ca.count()
		ca.set(func() { ca.err = problem(notPlaced, "no such pod") })
		t.Cleanup(s.Hold(web))
		pass(checkEvery / 4)
		if n := ca.count(); n != 0 {
			t.Errorf("a refused pod is no refused node: asked %d times", n)
		}
		ca.set(func() { ca.err, ca.reason = problem("token_expired", "x"), "token_expired" })
		t.Cleanup(s.Hold(db))
		pass(checkAgain)
		wantStanding(t, s, true, "token_expired", "it is")
		ca.count()
		pass(time.Minute)
		if n := ca.count(); n > 30 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

func TestCAThatTakesTheNodeForAnotherDoesNotMakeItReady(t *testing.T) {
	for _, test := range []struct {
		answer Answer
		reason Reason
		text   string
	}{
		{Answer{TrustDomain: "elsewhere", Node: "node-1"}, TrustDomain, `"elsewhere", and this node is of "cluster.local"`},
		{Answer{TrustDomain: "cluster.local", Node: "node-2"}, NodeName, `"node-2", and this node is "node-1"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca := &asked{answer: test.answer}
			s, _ := node(t, ca)
			wantStanding(t, s, false, test.reason, test.text)
			t.Cleanup(s.Hold(web)) // it may even sign
			pass(time.Minute)
			wantStanding(t, s, false, test.reason, test.text)
		})
	}
}

func TestIssuerThatCannotBeAskedIsKnownByWhatItSigns(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		r.issuer.set(func() { r.issuer.err = fmt.Errorf("wrapped: %w", problem(TokenFile, "gone")) })
		hold(t, r, web)
		wantStanding(t, r.Store, false, TokenFile, "gone")
		r.issuer.set(func() { r.issuer.err = errDown })
		pass(time.Minute)
		wantStanding(t, r.Store, false, Failed, errDown.Error())
		r.issuer.set(func() { r.issuer.err = nil })
		pass(time.Minute)
		wantStanding(t, r.Store, true, Signs, "")
		r.issuer.set(func() { r.issuer.err = errDown })
		pass(time.Hour)
		wantStanding(t, r.Store, true, Failed, errDown.Error())
	})
}

// A newer CA must not make a metric's label grow.
func TestWordsThatAreNotKnownAreOne(t *testing.T) {
	if got := reasonOf(identityv1.Reason(4711)); got != Refused {
		t.Errorf("%s", got)
	}
	if got := reasonOf(identityv1.Reason_TOKEN_EXPIRED); got != "token_expired" {
		t.Errorf("%s", got)
	}
}
