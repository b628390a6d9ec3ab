// SPDX-License-Identifier: Apache-2.0

package source

import (
	"reflect"
	"strings"
	"testing"
)

// lists are the fields of T that hold a list, by the names that they have in objects.
func lists[T any]() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.Type.Kind() == reflect.Slice {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// A list that is there and empty is not one that is not there, in no field, nor in a copy
// of the object: its rule allows nobody, and what it denies is not less for it.
func TestAnEmptyListNarrowsInEveryField(t *testing.T) {
	rules := map[string]string{}
	for _, field := range lists[Peer]() {
		rules[field] = "{from: [{source: {namespaces: [shop], " + field + ": []}}]}"
	}
	rules["namespaces"] = "{from: [{source: {trustDomains: [cluster.local], namespaces: []}}]}"
	for _, field := range lists[Operation]() {
		rules[field] = `{to: [{operation: {ports: ["80"], ` + field + ": []}}]}"
	}
	rules["ports"] = `{to: [{operation: {notPorts: ["81"], ports: []}}]}`
	rules["values"] = "{when: [{key: source.namespace, values: [], notValues: [bank]}]}"
	rules["notValues"] = "{when: [{key: source.namespace, values: [shop], notValues: []}]}"
	for _, field := range lists[Rule]() {
		rules["the rule's "+field] = "{" + field + ": []}"
	}
	if len(rules) != 14+8+2+3 {
		t.Errorf("%d fields", len(rules))
	}
	for field, rule := range rules {
		for _, action := range []string{"ALLOW", "DENY"} {
			p := parse[AuthorizationPolicy](t, "{metadata: {name: a, namespace: shop}, spec: {action: "+action+", rules: ["+rule+"]}}")
			for name, p := range map[string]*AuthorizationPolicy{"as read": p, "a copy": p.DeepCopyObject().(*AuthorizationPolicy)} {
				if err := inForce([]*AuthorizationPolicy{p}).AllowInbound(attempt(t, "shop/web 10.0.0.1 80")); err == nil {
					t.Errorf("%s, %s: %s lets in", action, name, field)
				}
				if w := strings.Join(p.Warnings(), "; "); !strings.Contains(w, strings.TrimPrefix(field, "the rule's ")+": ") {
					t.Errorf("%s, %s: the warnings do not name %s: %q", action, name, field, w)
				}
			}
		}
	}
}
