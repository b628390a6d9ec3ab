// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// Of two keys that become one, a decoder takes either.
func TestKeysThatCollideOrAreNoTextAreRefused(t *testing.T) {
	peer := func(ports string) string {
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  portLevelMtls: {" + ports + "}\n"
	}
	labels := func(labels string) string {
		return "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {" + labels + "}}}"
	}
	for _, c := range []struct{ text, want string }{
		{peer(`9090: {mode: STRICT}, "9090": {mode: PERMISSIVE}`), `line 6: spec.portLevelMtls: key "9090": twice`},
		{peer(`9090.0: {mode: STRICT}`), `spec.portLevelMtls: key 9090.0: not a text; write it in quotes`},
		{peer(`9.09e3: {mode: STRICT}`), `spec.portLevelMtls: key 9.09e3: not a text`},
		{peer(`0x2382: {mode: STRICT}`), `spec.portLevelMtls: key 0x2382: not a text`},
		{peer(`9_090: {mode: STRICT}`), `spec.portLevelMtls: key 9_090: not a text`},
		{peer(`09090: {mode: STRICT}`), `spec.portLevelMtls`},
		{peer(`+9090: {mode: STRICT}`), `spec.portLevelMtls: key +9090: not a text`},
		{peer(`"9090.0": {mode: STRICT}`), `spec.portLevelMtls[9090.0]: not a port of the pod`},
		{peer(`"09090": {mode: STRICT}`), `spec.portLevelMtls[09090]: not a port of the pod`},
		{peer(`? [9090] : {mode: STRICT}`), `spec.portLevelMtls: a key that is no text`},
		{labels("a: b, a: c"), `line 1: metadata.labels: key "a": twice`},
		{labels("a: b, \"a\": c"), `metadata.labels: key "a": twice`},
		{labels("yes: a"), `metadata.labels: key yes: not a text`},
		{labels("~: a"), `metadata.labels: key ~: not a text`},
		{labels("true: a"), `metadata.labels: key true: not a text`},
		{labels("a: "), "metadata.labels.a: has no value"},
		{labels("culvert.dev/mesh: "), "metadata.labels.culvert.dev/mesh: has no value"},
		{labels("culvert.dev/mesh: !x enabled"), `line 1: metadata.labels.culvert.dev/mesh: !x "enabled": not a text`},
		{"{apiVersion: v1, kind: Namespace, kind: Pod, metadata: {name: a}}", `key "kind": twice`},
		{"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a, name: b}}]}", `items[0]: Namespace a: line 1: metadata: key "name": twice`},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nmetadata: {name: b}\n", `line 4: key "metadata": twice`},
		{strings.Replace(peer("80: {mode: STRICT}"), "{app: web}", "{app: }", 1), "spec.selector.matchLabels.app: has no value"},
		{strings.Replace(peer("80: {mode: STRICT}"), "{matchLabels: {app: web}}", "", 1), "spec.selector: has no value"},
		{peer("80: {mode: }"), "spec.portLevelMtls.80.mode: has no value"},
		{"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {rules: [{from: }]}}", "spec.rules[0].from: has no value"},
		{"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: }", "spec: has no value"},
		{"{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: }}}", "spec.selector.app: has no value"},
		{`{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {<<: 7}}}`, "metadata.labels: <<: not a map"},
	} {
		got := decode("x.yaml", []byte(c.text), nil)
		if err := report(got.errs.list); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
		if slices.ContainsFunc(got.entries, func(e entry) bool { return !e.broken }) {
			t.Errorf("%q: read all the same", c.text)
		}
	}
	for _, text := range []string{
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"a": "b", "a": "c"}}}`,
		`{"apiVersion": "v1", "kind": "Namespace", "kind": "Namespace", "metadata": {"name": "a"}}`,
		`{"apiVersion": "v1", "kind": "List", "items": [], "items": []}`,
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "name": "b"}}`,
		`{"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "a"}, "spec": {"mtls": {"mode": "STRICT"}, "mtls": null}}`,
	} {
		if got := decode("x.json", []byte(text), nil); !strings.Contains(report(got.errs.list).Error(), "duplicate field") {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// What kubectl reads, we read as it does.
func TestYAMLIsReadAsKubernetesReadsIt(t *testing.T) {
	for _, c := range []struct{ yaml, json string }{
		{"{a: yes, b: Off, c: \"yes\", d: ~, e: , f: null}", `{"a":true,"b":false,"c":"yes","d":null,"e":null,"f":null}`},
		{"{a: 0x10, b: 1_000, c: 1e3, d: 0.5, e: -7, f: 12345678901234567890, g: +1}", `{"a":16,"b":1000,"c":1000,"d":0.5,"e":-7,"f":12345678901234567890,"g":1}`},
		{"{a: 2024-01-01T00:00:00Z, b: !!str 7, c: '7', 8: x, 2024-01-01: z}", `{"a":"2024-01-01T00:00:00Z","b":"7","c":"7","8":"x","2024-01-01":"z"}`},
		{"a: |\n  x\n  <y>\nb: [1, [2], {}]\n", `{"a":"x\n<y>\n","b":[1,[2],{}]}`},
		{"a: &a {x: 1, w: 2}\nb: {<<: *a, w: 3}\nc: {w: 4, <<: [*a, {z: 5, x: 6}]}\nd: *a\n", `{"a":{"x":1,"w":2},"b":{"w":3,"x":1},"c":{"w":4,"x":1,"z":5},"d":{"x":1,"w":2}}`},
	} {
		got, faults, err := toJSON([]byte(c.yaml))
		if string(got) != c.json || err != nil || len(faults) > 0 {
			t.Errorf("%s:\n got %s, %v, %v\nwant %s", c.yaml, got, faults, err, c.json)
		}
	}
}

func TestAliasesThatRepeatEachOtherEnd(t *testing.T) {
	bomb := "a0: &a0 [x]\n"
	merges := "a0: &a0 {}\n"
	for i := range 60 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
		merges += fmt.Sprintf("a%d: &a%d {<<: [*a%d, *a%d]}\n", i+1, i+1, i, i)
	}
	for _, text := range []string{bomb, merges, "a: &a [*a]\n", "a: &a {<<: *a}\n", strings.Repeat("[", 5000) + strings.Repeat("]", 5000)} {
		if c := decode("x.yaml", []byte(text), nil); len(c.errs.list) != 1 || !c.blind || !strings.Contains(c.errs.list[0].Error(), errExpands.Error()) {
			t.Errorf("%.40q: %v", text, c.errs.list)
		}
	}
}

// Mistakes that aliases repeat take no more memory than a document of that length may.
func TestMistakesThatAliasesRepeatEnd(t *testing.T) {
	list := func(n int, item string) string { return strings.Repeat(item+", ", n) }
	keys := ""
	for i := range 1000 {
		keys += fmt.Sprintf("1.%d: , ", i)
	}
	for name, text := range map[string]string{
		"keys that are no text": "a: &a {" + keys + "}\nb: [" + list(1000, "*a") + "]\n",
		"keys that are twice":   "a: &a {" + list(1000, "x: ") + "}\nb: [" + list(1000, "*a") + "]\n",
		"a merge of no maps":    "a: &a x\nb: &b {<<: [" + list(1000, "*a") + "]}\nc: [" + list(1000, "*b") + "]\n",
		"tags":                  "a: &a [" + list(1000, "!x []") + "]\nb: [" + list(1000, "*a") + "]\n",
		"a long key":            "a: &a {? !!binary '" + strings.Repeat("x", 8000) + "' : }\nb: [" + list(8000, "*a") + "]\n",
		"a long path":           "a: &a {1.5: }\nb: " + strings.Repeat("{c: ", 150) + "[" + list(10000, "*a") + "]" + strings.Repeat("}", 150) + "\n",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := toJSON([]byte(text))
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) >> 10; !errors.Is(err, errExpands) || took > 16<<10 {
			t.Errorf("%s: %d KiB of YAML took %d KiB: %v", name, len(text)>>10, took, err)
		}
	}
}

// An envelope with a mistake would hold nothing, and nobody would notice.
func TestEnvelopesAreReadStrictly(t *testing.T) {
	const items = "[{apiVersion: v1, kind: Namespace, metadata: {name: a}}]"
	for _, c := range []struct{ text, want string }{
		{"{apiVersion: v1, kind: list, items: " + items + "}", `kind: "list" of "v1": not List of v1`},
		{"{apiVersion: v2, kind: List, items: " + items + "}", `kind: "List" of "v2": not List of v1`},
		{"{apiVersion: v1, kind: List, item: " + items + "}", `List: unknown field "item"`},
		{"{apiVersion: v1, kind: List, Items: " + items + "}", `List: unknown field "Items"`},
		{"{apiVersion: v1, kind: List, items: " + items + ", items: []}", `line 1: key "items": twice`},
		{"{apiVersion: v1, kind: List, items: {a: b}}", "not a Kubernetes object"},
		{"{apiVersion: v1, kind: podList, items: []}", `kind: "podList": not PodList`},
		{"{apiVersion: v1, kind: PodList, item: []}", `PodList: unknown field "item"`},
		{"{apiVersion: v1, Kind: Namespace, metadata: {name: a}}", "kind: required"},
		{"{apiversion: v1, kind: Namespace, metadata: {name: a}}", "apiVersion: required"},
	} {
		got := decode("x.yaml", []byte(c.text), nil)
		if err := report(got.errs.list); !strings.Contains(err.Error(), c.want) || !got.blind {
			t.Errorf("%q:\n got %v, blind %v\nwant %s", c.text, err, got.blind, c.want)
		}
	}
}

// A newer Kubernetes has fields that we do not know, and others have kinds of our names.
func TestWhatDecidesNothingMayBeUnknown(t *testing.T) {
	c := decodeGood(t, "x.yaml", `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.5, newField: {a: [1]}, ports: [{port: 80, colour: red}]}, status: {mood: good}}
---
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: web, namespace: shop}}
---
{apiVersion: example.com/v1, kind: Any, metadata: {name: a}, spec: {yes: 1, yes: 2, 1.5: x}}
`)
	if want := []string{"x.yaml: document 1: Service shop/web"}; !cmp.Equal(names(c), want) || len(c.ignored) != 2 {
		t.Errorf("%v, ignored %v", names(c), c.ignored)
	}
	want := []string{
		`x.yaml: document 1: Service shop/web: unknown field "spec.newField": passed over`,
		`x.yaml: document 1: Service shop/web: unknown field "spec.ports[0].colour": passed over`,
		`x.yaml: document 1: Service shop/web: unknown field "status.mood": passed over`,
	}
	if got := strings.Split(report(c.remarks.list).Error(), "\n"); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	for _, text := range []string{
		"{apiVersion: v1, kind: Service, metadata: {name: web, lables: {}}}",
		"{apiVersion: v1, kind: Service, metadata: {name: web}, specs: {}}",
		"{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, port: 81}]}}",
		"{apiVersion: security.istio.oi/v1, kind: PeerAuthentication, metadata: {name: web}}",
	} {
		if got := decode("x.yaml", []byte(text), nil); len(got.errs.list) != 1 {
			t.Errorf("%s: %v", text, got.errs.list)
		}
	}
}

func TestRulesThatTheMeshDoesNotKeepAreSaidOnce(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := New(dir, Options{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	const text = `{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: jwt, namespace: shop}}
---
{apiVersion: policy.linkerd.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: l, namespace: shop}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: np, namespace: shop}}
`
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text+strings.Repeat("\n", i)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.look(func(source.Snapshot) {})
	}
	for _, want := range []string{
		"RequestAuthentication shop/jwt: security.istio.io/v1: not enforced by the mesh",
		"AuthorizationPolicy shop/l: policy.linkerd.io/v1alpha1: not enforced by the mesh",
		"NetworkPolicy shop/np: projectcalico.org/v3: not enforced by the mesh",
	} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%d times %q in\n%s", n, want, log.String())
		}
	}
}

// cpu is the time that the process took of its processors: on a busy machine, not that
// of a clock.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Whatever is wrong, twenty times as much takes about twenty times as long.
// ISTIO-SECURITY-2026-006: what one user wrote stopped the configuration of all.
func TestReadingIsLinear(t *testing.T) {
	for name, part := range map[string]string{
		"documents that do not parse": "---\na: b: c\n",
		"dots that are no markers":    "# ... ... ...\n",
		"dashes that are no markers":  "# --- --- ---\n",
	} {
		took := func(n int) time.Duration {
			text := []byte(strings.Repeat(part, n))
			before := cpu(t)
			decode("x.yaml", text, nil)
			return cpu(t) - before
		}
		took(200)
		if small, large := took(2000), took(40000); large > 60*small+100*time.Millisecond {
			t.Errorf("%s: %v, twenty times as much %v", name, small, large)
		}
	}
}

func TestMistakesOfAFileAreCounted(t *testing.T) {
	for name, part := range map[string]string{
		"documents that do not parse": "---\na: b: c\n",
		"pods with a mistake":         "---\n" + strings.Replace(onePod, "8080", "x", 1),
		"keys that are twice":         "---\n{a: 1, a: 2, kind: Pod, apiVersion: v1, metadata: {name: a, uid: b}, spec: {containers: [{name: c}]}}\n",
	} {
		c := decode("x.yaml", []byte(strings.Repeat(part, 100)), nil)
		all := c.errs.all("x.yaml")
		if len(all) != maxFaults+1 || !strings.HasPrefix(all[maxFaults].Error(), "x.yaml: and ") {
			t.Errorf("%s: %d errors, the last is %v", name, len(all), all[len(all)-1])
		}
	}
}

func podsYAML(size int) []byte {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata:
  name: web-%d
  namespace: shop
  uid: 6f1f5d1e-0b5a-4b52-9a43-%012d
  labels:
    app: web
    pod-template-hash: 5d4f8c7d9f
spec:
  nodeName: node-1
  serviceAccountName: web
  containers:
  - name: c
    image: registry.example/web:1
    ports:
    - name: http
      containerPort: 8080
    readinessProbe:
      httpGet:
        path: /healthz
        port: http
status:
  phase: Running
  podIP: 10.%d.%d.%d
  conditions:
  - type: Ready
    status: "True"
---
`, i, i, i/250/250%250, i/250%250, i%250)
	}
	return []byte(b.String())
}

// BenchmarkDecode is a file of 10 MB, of 20,000 pods.
func BenchmarkDecode(b *testing.B) {
	data := podsYAML(10 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if c := decode("x.yaml", data, nil); len(c.errs.list) > 0 {
			b.Fatal(c.errs.list)
		}
	}
}
