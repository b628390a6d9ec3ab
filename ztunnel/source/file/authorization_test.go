// SPDX-License-Identifier: Apache-2.0

package file

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// What means nothing to anybody is an error; what a proxy of layer 7 understands is only
// said, and lets nothing in.
func TestAnAuthorizationPolicysFieldsAreErrorsOrWarnings(t *testing.T) {
	const head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec: "
	for _, tc := range []struct{ spec, err, warning string }{
		{`{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}`, "", ""},
		{`{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}`, `x.yaml: document 1: AuthorizationPolicy shop/a: spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33": not an address or a CIDR`, ""},
		{`{rules: [{}, null]}`, `spec.rules[1]: has no value`, ""},
		{`{rules: [{to: [{operation: {ports: ["080"]}}]}]}`, `spec.rules[0].to[0].operation.ports[0]: "080": not a port`, ""},
		{`{rules: [{to: [{operation: {ports: ["80"], hots: [a]}}]}]}`, `hots`, ""},
		{`{rules: [{to: [{operation: {methods: [GET]}}]}]}`, "", `x.yaml: document 1: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation.methods: is about requests`},
		{`{action: CUSTOM, rules: [{}]}`, "", `spec.action: CUSTOM`},
		{`{action: REFUSE}`, `spec.action: "REFUSE"`, ""},
	} {
		c := decode("x.yaml", []byte(head+tc.spec+"\n"), nil)
		has := func(want string, got []string) bool {
			if want == "" {
				return len(got) == 0
			}
			return slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) })
		}
		var errs []string
		for _, err := range c.errs.list {
			errs = append(errs, err.Error())
		}
		var warnings []string
		for _, remark := range c.remarks.list {
			warnings = append(warnings, remark.Error())
		}
		if !has(tc.err, errs) || !has(tc.warning, warnings) || len(c.entries) != 1 || c.entries[0].broken != (tc.err != "") {
			t.Errorf("%s: errors %q, warnings %q, %d objects", tc.spec, errs, warnings, len(c.entries))
		}
	}
}

// A template without values leaves a list empty, or null, or nothing at all. In a directory
// each is said, and what has no value keeps its last good state.
func TestAFieldWithoutValuesIsAnError(t *testing.T) {
	const head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec: {rules: [{from: [{source: {"
	for _, f := range reflect.VisibleFields(reflect.TypeFor[source.Peer]()) {
		field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		for _, value := range []string{"[]", "null", ""} {
			c := decode("x.yaml", []byte(head+field+": "+value+"}}]}]}\n"), nil)
			said := append(slices.Clone(c.errs.list), c.remarks.list...) // what is of layer 7 is a warning
			if len(said) == 0 || !strings.Contains(said[0].Error(), "spec.rules[0].from[0].source."+field+": ") {
				t.Errorf("%s: %q: %v", field, value, said)
			}
			if value != "[]" && !c.entries[0].broken {
				t.Errorf("%s: %q is taken", field, value)
			}
		}
	}
}
