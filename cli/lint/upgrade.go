// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// upgrade says whom a policy lets in whose pods refused everybody because of it.
func (s *scene) upgrade(a *authorization, pods []*workload.Packed) {
	to := "its pods"
	if len(pods) > 0 {
		to = some(owners(pods))
	}
	switch action := a.policy.Action; {
	case a.policy.DryRun || action != policy.Allow && action != policy.Deny:
		s.say(a.Object, letsIn, "", "%s refused everybody because of it, which is not enforced: now it refuses nobody", to)
		return
	case action == policy.Deny:
		s.say(a.Object, letsIn, "", "%s refused everybody because of it: now it refuses whom its rules match", to)
		return
	}
	for i, rule := range a.policy.Rules {
		if !never(rule) {
			s.say(a.Object, letsIn, fmt.Sprintf("spec.rules[%d]", i), "%s refused everybody; now it lets in: %s", to, spelled(rule))
		}
	}
}

// spelled is a rule for people.
func spelled(rule policy.Rule) string {
	var clauses []string
	for _, clause := range rule {
		var matches []string
		for _, m := range clause {
			matches = append(matches, fields(m))
		}
		if slices.Contains(matches, "") {
			continue
		}
		clauses = append(clauses, strings.Join(matches, ", or "))
	}
	if len(clauses) == 0 {
		return "everybody"
	}
	return strings.Join(clauses, "; with ")
}

// fields are those of m that are there, each with its values.
func fields(m policy.Match) string {
	var all []string
	v := reflect.ValueOf(m)
	for i := range v.NumField() {
		list := v.Field(i)
		if list.Len() == 0 {
			continue
		}
		var values []string
		for j := range list.Len() {
			values = append(values, fmt.Sprint(list.Index(j).Interface()))
		}
		all = append(all, spaced(v.Type().Field(i).Name)+" "+some(values))
	}
	return strings.Join(all, ", ")
}

// spaced is a field's name for people, as "not trust domains".
func spaced(name string) string {
	var out strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte(' ')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
