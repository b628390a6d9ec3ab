// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

func judgeText(t *testing.T, text string) verdict {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return judge(source.Kind(u.GetKind()), u, "istio-system")
}

func TestWhatIsSaidOfAPolicy(t *testing.T) {
	const never = ": not understood, so that it keeps its former meaning, or if it has none means "
	for _, test := range []struct {
		what, kind, more, spec, want string
		silent                       bool
	}{
		{"all of it", "AuthorizationPolicy", ``, `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`, "True Accepted: every field is understood", true},
		{"nothing, which refuses everybody", "AuthorizationPolicy", ``, `{}`, "True Accepted: every field is understood", true},
		{"a field of layer 7", "AuthorizationPolicy", ``, `{rules: [{to: [{operation: {methods: [GET]}}]}]}`,
			"True UnsupportedValue: in force, narrower than it is written: spec.rules[0].to[0].operation.methods: is about requests, which nobody looks at here", false},
		{"two things", "AuthorizationPolicy", ``, `{rules: [{when: [{key: request.headers, values: [a]}]}, {from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}`,
			`True UnsupportedValue: in force, narrower than it is written: spec.rules[0].when[0].key: "request.headers": not known at layer 4; spec.rules[1].from[0].source.ipBlocks[0]: "10.0.0.0/33": not an address or a CIDR`, false},
		{"an unknown field of a rule", "AuthorizationPolicy", ``, `{rules: [{from: [{source: {mood: [good]}}]}]}`,
			"True UnsupportedValue: in force, narrower than it is written: spec.rules[0].from[0].source.mood: not known to this version; spec.rules[0].from[0].source: names nothing", false},
		{"an unknown field", "AuthorizationPolicy", ``, `{hosts: [a]}`, `False Invalid` + never + `that nobody may connect for all that it may select: strict decoding error: unknown field "spec.hosts"`, false},
		{"an unknown action", "AuthorizationPolicy", ``, `{action: LOG}`, `False Invalid` + never + `that nobody may connect for all that it may select: spec.action: "LOG": not ALLOW, DENY, AUDIT or CUSTOM`, false},
		{"for waypoints", "AuthorizationPolicy", ``, `{targetRefs: [{kind: Gateway, name: w}]}`, "False UnsupportedValue: not in force: spec.targetRefs: for waypoints and Services: not enforced at layer 4", true},
		{"for proxies of layer 7", "AuthorizationPolicy", ``, `{action: CUSTOM, provider: {name: p}, rules: [{}]}`, "False UnsupportedValue: not in force: spec.action: CUSTOM: has no effect at layer 4", false},
		{"a dry run", "AuthorizationPolicy", `, annotations: {istio.io/dry-run: "true"}`, `{}`, "False DryRun: not enforced: dry run", true},
		{"a dry run with a field of layer 7", "AuthorizationPolicy", `, annotations: {istio.io/dry-run: "true"}`, `{action: DENY, rules: [{to: [{operation: {paths: [/]}}]}]}`,
			"False DryRun: not enforced: dry run; it would be narrower than it is written: spec.rules[0].to[0].operation.paths: is about requests, which nobody looks at here", false},
		{"a dry run of an unknown action", "AuthorizationPolicy", `, annotations: {istio.io/dry-run: "true"}`, `{action: LOG}`,
			`False Invalid: not enforced: dry run; it is not understood: spec.action: "LOG": not ALLOW, DENY, AUDIT or CUSTOM`, false},
		{"a dry run of an unknown field", "AuthorizationPolicy", `, annotations: {istio.io/dry-run: "true"}`, `{hosts: [a]}`,
			`False Invalid: not enforced: dry run; it is not understood: strict decoding error: unknown field "spec.hosts"`, false},
		{"no dry run", "AuthorizationPolicy", `, annotations: {istio.io/dry-run: "yes"}`, `{}`,
			`True UnsupportedValue: in force, narrower than it is written: metadata.annotations[istio.io/dry-run]: "yes": not true or false, and not a dry run`, false},

		{"all of it", "PeerAuthentication", ``, `{mtls: {mode: STRICT}}`, "True Accepted: every field is understood", true},
		{"an unknown mode", "PeerAuthentication", ``, `{mtls: {mode: strict}}`, `False Invalid` + never + `STRICT for all that it may select: spec.mtls.mode: "strict": not UNSET, DISABLE, PERMISSIVE or STRICT`, false},
		{"ports without a selector", "PeerAuthentication", ``, `{portLevelMtls: {"80": {mode: STRICT}}}`, `False Invalid` + never + `STRICT for all that it may select: spec.portLevelMtls: needs spec.selector.matchLabels`, false},
		{"ports that are none", "PeerAuthentication", ``, `{selector: {matchLabels: {a: b}}, portLevelMtls: {"080": {}, http: {}}}`,
			`False Invalid` + never + `STRICT for all that it may select: spec.portLevelMtls[080]: not a port of the pod from 1 to 65535; spec.portLevelMtls[http]: not a port of the pod from 1 to 65535`, false},
		{"an unknown field", "PeerAuthentication", ``, `{exclude: [80]}`, `False Invalid` + never + `STRICT for all that it may select: strict decoding error: unknown field "spec.exclude"`, false},
	} {
		t.Run(test.kind+", "+test.what, func(t *testing.T) {
			v := judgeText(t, fmt.Sprintf(`{kind: %s, metadata: {name: a, namespace: shop%s}, spec: %s}`, test.kind, test.more, test.spec))
			if got := fmt.Sprintf("%s %s: %s", v.status(), v.reason, v.message); got != test.want {
				t.Errorf("\ngot  %s\nwant %s", got, test.want)
			}
			if v.warn == test.silent {
				t.Errorf("an Event: %v", v.warn)
			}
		})
	}
}

// Istio's rule, which surprises: such an object does not select pods of all namespaces.
func TestASelectorInTheRootNamespaceIsSaidToBeIgnored(t *testing.T) {
	const spec = `spec: {selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}}}`
	if v := judgeText(t, `{kind: PeerAuthentication, metadata: {name: a, namespace: istio-system}, `+spec); v.inForce || v.reason != reasonUnsupported ||
		!strings.HasPrefix(v.message, "not in force: spec.selector: ") || !v.warn {
		t.Errorf("%+v", v)
	}
	for _, text := range []string{
		`{kind: PeerAuthentication, metadata: {name: a, namespace: shop}, ` + spec,
		`{kind: PeerAuthentication, metadata: {name: a, namespace: istio-system}, spec: {selector: {}, mtls: {mode: STRICT}}}`,
		`{kind: AuthorizationPolicy, metadata: {name: a, namespace: istio-system}, spec: {selector: {matchLabels: {a: b}}}}`,
	} {
		if v := judgeText(t, text); !v.inForce {
			t.Errorf("%s: %+v", text, v)
		}
	}
}

// Whoever may write a policy must not fill the API server by it.
func TestWhatIsSaidIsBounded(t *testing.T) {
	long := strings.Repeat("ü", 900)
	for _, spec := range []string{`{action: "` + long + `"}`, `{rules: [{from: [{source: {"` + long + `": [a]}}]}]}`, `{"` + long + `": a}`} {
		v := judgeText(t, `{kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, spec: `+spec+`}`)
		if len(v.message) > maxMessage || !utf8.ValidString(v.message) || !strings.HasSuffix(v.message, "…") {
			t.Errorf("%d bytes: %q", len(v.message), v.message)
		}
	}
}
