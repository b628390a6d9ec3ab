// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// A001-9: each dependency that is down flips its own target, and no other.
func TestEachTargetOfReadinessFlipsAlone(t *testing.T) {
	var gone error
	for _, tc := range []struct {
		target, says string
		breaks       func(*testing.T, *rig)
	}{
		{"", "", func(*testing.T, *rig) {}},
		{"store", "the Secret is gone", func(*testing.T, *rig) { gone = errors.New("the Secret is gone") }},
		{"authority", "not open yet", func(t *testing.T, r *rig) { r.cfg.CA = must(ca.New(ca.Options{TrustDomain: td})) }},
		{"serving-certificate", "no DNS name", func(_ *testing.T, r *rig) { r.certificate = r.cfg.CA.ServerCertificate() }},
		{"placement", "not known yet", func(_ *testing.T, r *rig) { r.cfg.Placement = NewPlacement() }},
		{"tokens", "jwks.json", func(t *testing.T, r *rig) {
			if err := os.Remove(r.jwks); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run("without "+tc.target, func(t *testing.T) {
			gone = nil
			r := newRig(t, func(c *Config) { c.Waiting = func() error { return gone } })
			tc.breaks(t, r)
			down := map[string]bool{}
			for _, name := range []string{"store", "authority", "serving-certificate", "placement", "tokens"} {
				code, body := get(t, r.Handler(), "/readyz/"+name)
				if code == http.StatusOK {
					continue
				}
				down[name] = true
				if code != http.StatusServiceUnavailable || !strings.Contains(body, tc.says) {
					t.Errorf("%s: %d %q", name, code, body)
				}
			}
			want := []string{}
			if tc.target != "" {
				want = append(want, tc.target)
			}
			if got := slices.Sorted(maps.Keys(down)); !slices.Equal(got, want) {
				t.Errorf("down: %v, want %v", got, want)
			}
			code, body := get(t, r.Handler(), "/readyz?verbose")
			_, metrics := get(t, r.Handler(), "/metrics")
			if tc.target == "" {
				if code != http.StatusOK || !strings.HasSuffix(body, "readyz check passed\n") || len(readyLines(metrics, " 1")) != 5 {
					t.Errorf("%d %q", code, body)
				}
				return
			}
			if code != http.StatusServiceUnavailable || strings.Count(body, "[-]") != 1 || !strings.Contains(body, "[-]"+tc.target+" failed: ") {
				t.Errorf("%d %q", code, body)
			}
			if zeros := readyLines(metrics, " 0"); !slices.Equal(zeros, []string{fmt.Sprintf("culvert_identity_ready{target=%q} 0", tc.target)}) {
				t.Errorf("metrics: %v", zeros)
			}
		})
	}
}

// readyLines are the series of readiness that end so.
func readyLines(metrics, end string) (lines []string) {
	for line := range strings.Lines(metrics) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "culvert_identity_ready{") && strings.HasSuffix(line, end) {
			lines = append(lines, line)
		}
	}
	return lines
}

// While the API server is away nodes are served by what it said before: the CA stays
// ready, and says that it is away.
func TestAnAPIServerThatIsAwayLeavesTheCAReady(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Attestor = away{c.Attestor} })
	if code, body := get(t, r.Handler(), "/readyz?verbose"); code != http.StatusOK || !strings.Contains(body, "[-]tokens failed, and nodes are served without it: ") {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := get(t, r.Handler(), "/readyz/tokens"); code != http.StatusServiceUnavailable {
		t.Errorf("the target itself: %d", code)
	}
	if code, _ := get(t, r.Handler(), "/healthz/ready"); code != http.StatusOK {
		t.Errorf("the old address: %d", code)
	}
	if code, _ := get(t, r.Handler(), "/readyz/nothing"); code != http.StatusNotFound {
		t.Errorf("an unknown target: %d", code)
	}
}

type away struct{ Attestor }

func (away) Check() error { return fmt.Errorf("%w: the API server does not answer", ErrUnavailable) }

// An alarm must not end with the certificate that it is about.
func TestCertificatesThatHaveExpiredStayInTheMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td, IssuerTTL: time.Hour}))
		r := newRig(t, func(c *Config) { c.CA = authority })
		time.Sleep(2 * time.Hour) // bubble time
		_, body := get(t, r.Handler(), "/metrics")
		for _, want := range []string{
			fmt.Sprintf("culvert_identity_expiry_timestamp_seconds{certificate=\"issuer\",sha256=%q} %v\n", fingerprint(authority.Issuer())[:nameLength], float64(authority.Issuer().NotAfter.Unix())),
			fmt.Sprintf("culvert_identity_lifetime_seconds{certificate=\"issuer\",sha256=%q} 3660\n", fingerprint(authority.Issuer())[:nameLength]),
			"culvert_identity_ready{target=\"authority\"} 0\n", "culvert_identity_ready{target=\"placement\"} 1\n",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s", want)
			}
		}
	})
}

// Two series of one name would fail the whole scrape.
func TestACertificateThatIsThereTwiceIsOneSeries(t *testing.T) {
	root := must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td})).Roots()[0]
	if got := distinct([]*x509.Certificate{root, root}); len(got) != 1 {
		t.Errorf("%d", len(got))
	}
}
