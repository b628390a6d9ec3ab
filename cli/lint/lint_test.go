// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
)

var update = flag.Bool("update", false, "rewrite golden files")

// world is what testdata/world.yaml has, beside other texts.
func world(t *testing.T, texts ...[]byte) World {
	t.Helper()
	beside, err := os.ReadFile("testdata/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := World{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}
	w.Add("world.yaml", beside)
	for _, text := range texts {
		w.Add("policy.yaml", text)
	}
	return w
}

func of(code source.Code, found []Finding) (lines string) {
	for _, f := range found {
		if f.Code == code {
			lines += fmt.Sprintf("%s %s: %s: %s: %s\n", f.Severity, f.Place, f.Object, f.Field, f.Text)
		}
	}
	return lines
}

// Each code has an example that has it, and a clean twin that has neither it nor an error.
func TestEveryCodeHasAnExampleAndACleanTwin(t *testing.T) {
	for _, c := range codes {
		t.Run(string(c.code), func(t *testing.T) {
			path := filepath.Join("testdata", string(c.code)+".txt")
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad, clean := world(t, archive.Files[0].Data), world(t, archive.Files[1].Data)
			bad.Upgrade, clean.Upgrade = c.code == letsIn, c.code == letsIn
			got := of(c.code, Run(bad))
			if *update {
				archive.Files = append(archive.Files[:2], txtar.File{Name: "found", Data: []byte(got)})
				err = os.WriteFile(path, txtar.Format(archive), 0o644)
			}
			if want := string(archive.Files[len(archive.Files)-1].Data); err != nil || got == "" || got != want {
				t.Errorf("%v\ngot:\n%swant:\n%s", err, got, want)
			}
			for _, f := range Run(clean) {
				if f.Code == c.code || f.Severity == Error && c.code != letsIn {
					t.Errorf("the clean twin: %+v", f)
				}
			}
		})
	}
}

func TestEveryCodeOfTheSourceIsKnown(t *testing.T) {
	text, err := os.ReadFile("../../ztunnel/source/problem.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, code, is := strings.Cut(strings.TrimSpace(line), `= "`)
		code = strings.TrimSuffix(code, `"`)
		if is && !slices.ContainsFunc(codes, func(c sort) bool { return string(c.code) == code }) {
			t.Errorf("%s %s is not in codes", name, code)
		}
	}
}

// A world in which all is well has nothing to say, not even to itself.
func TestAWellKeptMeshHasNoFindings(t *testing.T) {
	if found := Run(world(t)); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	if found := Run(World{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}); len(found) > 0 {
		t.Errorf("of nothing, found %+v", found)
	}
}

// Policies are often kept without the pods, Namespaces and ServiceAccounts that they name.
func TestWhatTheInputDoesNotHaveIsNotMissed(t *testing.T) {
	var w World
	w.TrustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")
	w.Add("policy.yaml", []byte(`
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop},
 spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web], namespaces: [shop]}}], to: [{operation: {ports: ["80"]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: web, namespace: shop},
 spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}}
`))
	if found := Run(w); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

// A Deployment's pods need not be there yet.
func TestTemplatesOfPodsCountAsPods(t *testing.T) {
	w := world(t, []byte(`
{apiVersion: apps/v1, kind: Deployment, metadata: {name: front, namespace: shop}, spec: {template: {
 metadata: {labels: {app: front}}, spec: {serviceAccountName: front, containers: [{name: c, ports: [{containerPort: 8080}]}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: front, namespace: shop}, spec: {selector: {app: front}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: front, namespace: shop},
 spec: {selector: {matchLabels: {app: front}}, rules: [{from: [{source: {serviceAccounts: [front]}}], to: [{operation: {ports: ["80"]}}]}]}}
`))
	found := Run(w)
	if len(found) != 1 || found[0].Code != servicePort {
		t.Errorf("found %+v", found)
	}
}

// What an API server took is no mistake of a Pod, but a policy may mean nothing to ztunnel.
func TestAnAPIServerMayKnowMoreThanWe(t *testing.T) {
	w := world(t, []byte(`
{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: shop}, spec: {containers: [{name: c, gpu: 1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: new, namespace: shop}, spec: {gpu: 1, ports: [{port: 80}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {rules: [{by: [me]}]}}
`))
	w.Live = true
	found := Run(w)
	if len(found) != 1 || found[0].Code != source.UnknownField || found[0].Field != "spec.rules[0].by" {
		t.Errorf("found %+v", found)
	}
}

// What is wrong with an object stands together, and the worst comes first.
func TestFindingsAreSorted(t *testing.T) {
	w := world(t, []byte(`
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: b, namespace: shop}, spec: {}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shops}, spec: {action: DENY}}
`))
	var got []string
	for _, f := range Run(w) {
		got = append(got, string(f.Code)+" "+f.Object)
	}
	want := []string{"closed AuthorizationPolicy shop/b", "denies-nobody AuthorizationPolicy shops/a", "no-such-namespace AuthorizationPolicy shops/a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Whatever text comes, it is looked at whole and nothing falls over.
func FuzzLint(f *testing.F) {
	examples, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(examples) == 0 {
		f.Fatal(errors.Join(err, errors.New("no examples")))
	}
	for _, path := range examples {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		w := World{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Upgrade: true}
		w.Text = file.Text{}
		w.Add("f.yaml", text)
		for _, finding := range Run(w) {
			if finding.Text == "" || finding.Hint == "" || finding.Severity == "" {
				t.Errorf("%+v", finding)
			}
		}
	})
}

var (
	section  = regexp.MustCompile(`(?m)^### (.*)\n\n(Error|Warning|Info)\b`)
	sections = regexp.MustCompile(`(?m)^### `)
)

// The docs have a section on each code, in the same order, that begins with its severity.
func TestEveryCodeIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../" + Docs)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, c := range codes {
		severity := c.severity
		if c.code == meshWide {
			severity = Warning // and an info, it says
		}
		want = append(want, string(c.code)+" "+string(severity))
	}
	for _, m := range section.FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+strings.ToLower(m[2]))
	}
	if diff := cmp.Diff(want, got); diff != "" || len(sections.FindAllString(string(text), -1)) != len(want) {
		t.Errorf("codes, and sections of %s:\n%s", Docs, diff)
	}
}
