// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

func TestQuestionsToTheAPIServerAreCounted(t *testing.T) {
	asked := newReviewed(t)
	r := newRig(t, func(c *Config) { c.Attestor = asked.TokenReview })
	expect := func(vouched, refused, unavailable string) {
		t.Helper()
		_, body := get(t, r.Handler(), "/metrics")
		for result, n := range map[string]string{"vouched": vouched, "refused": refused, "unavailable": unavailable} {
			if want := `culvert_identity_token_reviews_total{result="` + result + `"} ` + n + "\n"; !strings.Contains(body, want) {
				t.Errorf("no %s", want)
			}
		}
	}
	expect("0", "0", "0")
	asked.Attest(t.Context(), goodToken(t))
	expect("1", "0", "0")
	asked.forget()
	asked.vouch(func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false })
	asked.Attest(t.Context(), goodToken(t))
	expect("1", "1", "0")
	asked.away = true
	asked.Attest(t.Context(), goodToken(t))
	expect("1", "1", "1")
	// A001-9: only that target is down, and nodes that are known are served.
	if code, body := get(t, r.Handler(), "/readyz?verbose"); code != http.StatusOK || strings.Count(body, "[-]") != 1 || !strings.Contains(body, "[-]tokens failed, and nodes are served without it") {
		t.Errorf("%d %s", code, body)
	}
}
