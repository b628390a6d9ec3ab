// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

var quiet = slog.New(slog.DiscardHandler)

// seen are the alerts that a story made fire.
var seen struct {
	sync.Mutex
	fired map[string]bool
}

// wants is that a story made these alerts fire, and each that has a `for` was pending
// before.
func (p *prometheus) wants(atMost time.Duration, names ...string) {
	p.t.Helper()
	p.until(atMost, names...)
	seen.Lock()
	defer seen.Unlock()
	for _, name := range names {
		if !p.fired[name] {
			continue
		}
		if seen.fired == nil {
			seen.fired = map[string]bool{}
		}
		seen.fired[name] = true
		for _, rule := range p.rules {
			if rule.Alert+"/"+rule.Labels["severity"] == name && rule.For > 0 && !p.pending[name] {
				p.t.Errorf("%s fired and was not pending before", name)
			}
		}
	}
}

// wantsNone is that nothing fires, nor is on the way to.
func (p *prometheus) wantsNone(d time.Duration) {
	p.t.Helper()
	p.run(d)
	if len(p.active) > 0 || len(p.fired) > 0 {
		p.t.Errorf("active: %v; fired: %v", p.states(), slices.Sorted(maps.Keys(p.fired)))
	}
}

// Each story begins with a mesh that is well, and nothing fires before it goes wrong. At
// the end every rule of the file has fired.
func TestEveryAlertFiresWhenItShould(t *testing.T) {
	t.Run("stories", func(t *testing.T) {
		for name, story := range map[string]func(*testing.T){
			"a mesh that is well":               nothingFires,
			"certificates of the CA grow old":   theCAGrowsOld,
			"a leaf grows old":                  aLeafGrowsOld,
			"the CA is killed":                  theCAIsKilled,
			"a token is refused":                aTokenIsRefused,
			"an issuer that is none":            anIssuerIsRefused,
			"another domain's endpoint is away": anotherDomainIsAway,
			"a file of federations is wrong":    aFileOfFederationsIsWrong,
			"a node keeps an old bundle":        aNodeLagsBehind,
			"a re-key that waits":               aRekeyWaits,
			"keys of tokens are gone":           keysAreGone,
			"two CAs behind one name":           replicasDiffer,
			"a clock that is off":               aClockIsOff,
			"a ledger that is taken away":       theLedgerIsTakenAway,
			"a ledger that is put back":         theLedgerIsPutBack,
			"checkpoints that are not kept":     checkpointsAreNotKept,
			"ztunnel goes":                      ztunnelGoes,
			"one of two ztunnels goes":          oneOfTwoZtunnelsGoes,
			"pods are not what they should":     podsAreNotWhatTheyShouldBe,
			"another hand removes a link":       anotherHandRemovesALink,
			"policies refuse more":              policiesRefuseMore,
			"a new node refuses always":         aNewNodeRefusesAlways,
			"a node runs short":                 aNodeRunsShort,
			"the plugin goes":                   thePluginGoes,
			"another program fights":            anotherProgramFights,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				story(t)
			})
		}
	})
	for _, rule := range readRules(t) {
		if name := rule.Alert + "/" + rule.Labels["severity"]; !seen.fired[name] {
			t.Errorf("no story made %s fire", name)
		}
	}
}

// well is a CA, a node that it serves, and a Prometheus at which nothing fires.
func well(t *testing.T, flags ...string) (*authority, *node, *prometheus, files) {
	f := newFiles(t)
	a := newAuthority(t, f, "ca", append([]string{"-ttl", "24h"}, flags...)...)
	n := newNode(t, f, a, nil)
	n.served(t)
	n.says(t, certs.Signs)
	p := newPrometheus(t, a.target(), n.target())
	p.wantsNone(10 * time.Minute)
	return a, n, p, f
}

// Two replicas of one CA, and a node that has its certificates renewed.
func nothingFires(t *testing.T) {
	f := newFiles(t)
	a := newAuthority(t, f, "ca", "-ttl", "24h")
	eventually(t, "the first is ready", a.ready)
	b := newAuthority(t, f, "ca", "-ttl", "24h")
	b.name = "ca-2"
	n := newNode(t, f, a, nil)
	n.served(t)
	n.says(t, certs.Signs)
	newPrometheus(t, a.target(), b.target(), n.target()).wantsNone(90 * time.Minute)
}

func theCAGrowsOld(t *testing.T) {
	_, _, p, _ := well(t)
	p.targets = p.targets[:1]
	begin := time.Now()
	day, year := 24*time.Hour, 365*24*time.Hour
	for _, step := range []struct {
		after time.Duration
		fires []string
	}{
		{day * 60 / 100, []string{"CulvertServingCertificateExpires/info"}},
		{day * 80 / 100, []string{"CulvertServingCertificateExpires/warning"}},
		{day * 92 / 100, []string{"CulvertServingCertificateExpires/critical"}},
		{day + time.Hour, []string{"CulvertCertificateExpired/critical"}},
		{year * 60 / 100, []string{"CulvertIssuerExpires/info"}},
		{year * 80 / 100, []string{"CulvertIssuerExpires/warning"}},
		{year * 92 / 100, []string{"CulvertIssuerExpires/critical"}},
		{year * 55 / 10, []string{"CulvertRootExpires/info"}},
		{year * 80 / 10, []string{"CulvertRootExpires/warning"}},
		{year * 92 / 10, []string{"CulvertRootExpires/critical"}},
	} {
		p.jump(begin.Add(step.after))
		for _, name := range step.fires {
			if p.fired[name] {
				t.Errorf("%s fired before", name)
			}
		}
		p.wants(2*time.Hour, step.fires...)
	}
}

// A node's certificate of a day grows old by the clock of Prometheus.
func aLeafGrowsOld(t *testing.T) {
	_, n, p, _ := well(t)
	p.targets = []target{n.target()}
	begin, day := time.Now(), 24*time.Hour
	for _, step := range []struct {
		after time.Duration
		fires string
	}{
		{day * 80 / 100, "CulvertCertificateExpires/warning"},
		{day * 92 / 100, "CulvertCertificateExpires/critical"},
		{day, "CulvertCertificateExpired/critical"},
	} {
		p.jump(begin.Add(step.after))
		p.wants(10*time.Minute, step.fires)
	}
}

// With the CA killed, a certificate of 25 s is not renewed; the node itself says so
// after three quarters of them.
func theCAIsKilled(t *testing.T) {
	f := newFiles(t)
	a := newAuthority(t, f, "ca", "-ttl", "25s")
	n := newNode(t, f, a, nil)
	n.served(t)
	n.says(t, certs.Signs)
	p := newPrometheus(t, target{n.target().job, n.name, without(n.target().scrape, "culvert_certificate_expiry")})
	p.targets = append(p.targets, a.target())
	p.wantsNone(10 * time.Minute)
	a.kill()
	p.targets = p.targets[:1] // its Service has no endpoint
	p.wants(10*time.Minute, "CulvertCAAbsent/critical")
	n.says(t, certs.Unreachable)
	p.wants(10*time.Minute, "CulvertCAUnreachable/critical")
	eventually(t, "the renewal is overdue", func() bool {
		state := n.Certificate(web).State
		return state == certs.Overdue || state == certs.Expired
	})
	p.wants(10*time.Minute, "CulvertRenewalOverdue/critical")
}

// without leaves series out of a scrape: certificates of seconds end at once by a clock
// that goes on by half a minute each time.
func without(scrape func() ([]byte, error), name string) func() ([]byte, error) {
	return func() ([]byte, error) {
		text, err := scrape()
		var kept strings.Builder
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, name) {
				kept.WriteString(line)
			}
		}
		return []byte(kept.String()), err
	}
}

// A node shows a token that another key has signed, while its connections wait for a
// certificate.
func aTokenIsRefused(t *testing.T) {
	a, _, p, f := well(t)
	n := newNode(t, f, a, func(c *certs.ClientConfig) { c.TokenFile = newFiles(t).path("token") })
	n.name = "node2"
	ctx, cancel := context.WithCancel(t.Context())
	var connections sync.WaitGroup
	connections.Go(func() {
		for ctx.Err() == nil {
			n.Client(ctx, web, web)
		}
	})
	t.Cleanup(func() { cancel(); connections.Wait() })
	eventually(t, "the node is refused", func() bool { return strings.HasPrefix(string(n.Standing().Reason), "token_") })
	p.targets = append(p.targets, n.target())
	p.pace = 300 * time.Millisecond // it asks about once a second
	p.wants(40*time.Minute, "CulvertNodeNotServed/warning", "CulvertIssuanceFails/warning", "CulvertRequestsRefused/warning")
}

// A000-16: garbage in the place of the issuer. The CA signs on, and says so.
func anIssuerIsRefused(t *testing.T) {
	a, n, p, _ := well(t)
	if err := os.WriteFile(a.ca+"/issuer.pem", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is refused", func() bool {
		text, err := a.target().scrape()
		return err == nil && strings.Contains(string(text), "\nculvert_identity_store_trouble 1\n")
	})
	p.wants(10*time.Minute, "CulvertReloadRejected/warning")
	if answer := n.Standing(); answer.Reason != certs.Signs || !a.ready() {
		t.Errorf("the CA does not sign on: %+v", answer)
	}
}

// The endpoint of another trust domain does not answer. The CA serves its own nodes on.
func anotherDomainIsAway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "federation.yaml")
	if err := os.WriteFile(file, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, n, p, _ := well(t, "-federation", file)
	if err := os.WriteFile(file, []byte("- {trustDomain: other.example, url: 'https://127.0.0.1:1/', profile: https_web}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is seen", func() bool {
		text, err := a.target().scrape()
		return err == nil && strings.Contains(string(text), "\nculvert_identity_federation_failing{trust_domain=\"other.example\"} 1\n")
	})
	p.wants(30*time.Minute, "CulvertFederationFails/warning")
	if answer := n.Standing(); answer.Reason != certs.Signs || !a.ready() {
		t.Errorf("the CA does not sign on: %+v", answer)
	}
}

// The file of federations is gone. The CA serves its own nodes on.
func aFileOfFederationsIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "federation.yaml")
	if err := os.WriteFile(file, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, n, p, _ := well(t, "-federation", file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is seen", func() bool {
		text, err := a.target().scrape()
		return err == nil && strings.Contains(string(text), "\nculvert_identity_not_understood{what=\"federation\"} 1\n")
	})
	p.wants(10*time.Minute, "CulvertNotUnderstood/warning")
	if answer := n.Standing(); answer.Reason != certs.Signs || !a.ready() {
		t.Errorf("the CA does not sign on: %+v", answer)
	}
}

// A node has a stream to the CA, and never says that it took the bundle.
func aNodeLagsBehind(t *testing.T) {
	a, _, p, f := well(t)
	token, err := os.ReadFile(f.path("token"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(a.nodes, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.TrimSpace(string(token)))
	stream, err := identityv1.NewCertificateServiceClient(conn).StreamBundle(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&identityv1.BundleAck{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	p.wants(20*time.Minute, "CulvertBundleLags/warning")
}

// An operator has paused a re-key of the root, and forgot it.
func aRekeyWaits(t *testing.T) {
	a, _, p, _ := well(t)
	if err := os.WriteFile(a.ca+"/rekey.json", []byte(`{"state": "prepare", "paused": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it waits", func() bool {
		text, err := a.target().scrape()
		return err == nil && strings.Contains(string(text), "\nculvert_identity_rekey_waits{kind=\"operator\"} 1\n")
	})
	p.wants(time.Hour, "CulvertRekeyLags/warning")
}

func keysAreGone(t *testing.T) {
	_, _, p, f := well(t)
	if err := os.Remove(f.path("jwks.json")); err != nil {
		t.Fatal(err)
	}
	p.wants(10*time.Minute, "CulvertCANotReady/critical")
}

func replicasDiffer(t *testing.T) {
	_, _, p, f := well(t)
	other := newAuthority(t, f, "other")
	p.targets = append(p.targets, other.target())
	p.wants(20*time.Minute, "CulvertReplicasDiffer/critical")
}

func aClockIsOff(t *testing.T) {
	_, _, p, _ := well(t)
	p.ahead = -time.Minute
	p.wants(10*time.Minute, "CulvertClockSkew/warning")
}

// The directory of the ledger goes, with a line in it, and something else takes its place.
func theLedgerIsTakenAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	_, _, p, _ := well(t, "-ledger", dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.pace = 100 * time.Millisecond // it looks twice a second
	p.wants(20*time.Minute, "CulvertLedgerFails/critical", "CulvertLedgerIncomplete/warning")
}

// A CA that is killed finds an older state of its ledger when it starts again: none at all.
func theLedgerIsPutBack(t *testing.T) {
	f, dir, kept := newFiles(t), filepath.Join(t.TempDir(), "ledger"), t.TempDir()
	flags := []string{"-ttl", "24h", "-ledger", dir, "-ledger-checkpoints", kept}
	a := newAuthority(t, f, "ca", flags...)
	eventually(t, "its ledger is anchored", func() bool { names, _ := filepath.Glob(kept + "/*.*"); return len(names) == 1 })
	p := newPrometheus(t, a.target())
	p.leaveOut("CulvertZtunnelAbsent")
	p.wantsNone(10 * time.Minute)
	a.kill()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	a = newAuthority(t, f, "ca", flags...)
	p.targets = []target{a.target()}
	eventually(t, "it has looked", func() bool { return strings.Contains(a.log.String(), "had come to seq") })
	p.wants(10*time.Minute, "CulvertLedgerPutBack/critical")
}

func checkpointsAreNotKept(t *testing.T) {
	_, _, p, _ := well(t, "-ledger", filepath.Join(t.TempDir(), "ledger"), "-ledger-checkpoints", filepath.Join(t.TempDir(), "none"))
	p.wants(30*time.Minute, "CulvertLedgerNotAnchored/warning")
}

// Who is woken by an alert finds out what it means, and what to do.
func TestEveryAlertIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range readRules(t) {
		for _, key := range []string{"summary", "description", "runbook_url"} {
			if rule.Annotations[key] == "" {
				t.Errorf("%s has no %s", rule.Alert, key)
			}
		}
		page, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
		if !strings.HasSuffix(page, "/docs/troubleshooting.md") || anchor != strings.ToLower(rule.Alert) {
			t.Errorf("%s leads to %s#%s", rule.Alert, page, anchor)
		}
		if !strings.Contains(string(text), "\n### "+rule.Alert+"\n") {
			t.Errorf("docs/troubleshooting.md does not explain %s", rule.Alert)
		}
		if !slices.Contains([]string{"info", "warning", "critical"}, rule.Labels["severity"]) {
			t.Errorf("%s is of severity %q", rule.Alert, rule.Labels["severity"])
		}
	}
}
