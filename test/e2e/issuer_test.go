// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
)

// T-ISSUER, for two cores: another issuer under the same root takes its place while streams
// stay open and new connections are made all the time. The CA says so within 2 s, a pod that
// comes then has a leaf of it within 5 s, a broken one is refused, and no connection fails.
// make soak does it every eight seconds, for minutes, with 500 new connections a second.
func TestAnIssuerIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 25 * time.Second}, "mesh")
	dir := filepath.Dir(s.Identity.Root)
	load := s.rekeyLoad(rekeyScale{identities: 8, streams: 100, rate: 100})
	round := 0
	var firstLeaf time.Duration
	took := env.Best(2*time.Second, func() time.Duration {
		round++
		before := s.caEvents(ca.IssuerUpdated)
		if text, err := s.culvert(s.one, "ca", "renew-issuer", "--ca-dir", dir); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		clock := env.NewStopwatch(s.Identity.PID(), s.two.Ztunnel.PID())
		s.eventually("the CA takes another issuer", func() bool { return s.caEvents(ca.IssuerUpdated) > before })
		took := clock.Elapsed()
		next := s.signing(dir)
		late := s.pod(s.two, fmt.Sprintf("late-%d", round), nil)
		s.eventually("a leaf of the issuer", func() bool {
			return s.issuer(s.two, late.SPIFFEID("cluster.local")) == next
		})
		firstLeaf = clock.Elapsed()
		t.Logf("round %d: the CA says so after %v, the first leaf is there after %v", round, took.Round(time.Millisecond), firstLeaf.Round(time.Millisecond))
		return max(took, firstLeaf-3*time.Second)
	})
	if took > 2*time.Second {
		t.Errorf("another issuer took %v, and its first leaf %v; want 2 s and 5 s", took, firstLeaf)
	}

	signs := s.signing(dir)
	refused := s.caEvents(ca.IssuerValidationFailed)
	path := filepath.Join(dir, ca.IssuerFile)
	good, err := os.ReadFile(path)
	s.must(err)
	s.must(os.WriteFile(path, []byte("garbage"), 0o600))
	s.eventually("the CA refuses it", func() bool { return s.caEvents(ca.IssuerValidationFailed) > refused })
	late := s.pod(s.two, "late", nil)
	s.eventually("a leaf of the issuer in force", func() bool { return s.issuer(s.two, late.SPIFFEID("cluster.local")) == signs })
	s.must(os.WriteFile(path, good, 0o600))
	load.wantNoHarm()
}

// signing is the serial number of the issuer in the CA's directory.
func (s *story) signing(dir string) string {
	s.Helper()
	block, _ := pem.Decode(s.filesOf(dir)[ca.IssuerFile])
	if block == nil {
		s.Fatalf("%s holds no PEM", ca.IssuerFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	s.must(err)
	return cert.SerialNumber.String()
}

// caEvents is how often the CA says that something happened to it.
func (s *story) caEvents(event ca.Reason) (n int) {
	s.Helper()
	status, text, err := s.Identity.Get(s.ctx, "/metrics")
	s.must(err)
	if status != http.StatusOK {
		s.Fatalf("the CA's metrics: status %d", status)
	}
	if _, rest, found := strings.Cut(text, fmt.Sprintf("culvert_identity_ca_events_total{event=%q} ", event)); found {
		_, err = fmt.Sscan(rest, &n)
		s.must(err)
	}
	return n
}
