// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
)

func written(policies []*AuthorizationPolicy) string {
	text, err := json.MarshalIndent(policies, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// spoil replaces one field of p, wherever it stands, by something that is not
// understood.
func (d dice) spoil(p *AuthorizationPolicy) *AuthorizationPolicy {
	out := deepCopy(p)
	switch d.IntN(8) {
	case 0:
		out.Spec.Action = "allow"
		return out
	case 1:
		out.Spec.Selector = &Selector{MatchLabels: map[string]string{"": "x"}}
		return out
	case 2:
		out.Annotations = map[string]string{DryRun: "maybe"}
		return out
	}
	var rules []*Rule
	for _, r := range out.Spec.Rules {
		if r != nil {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		out.Spec.Action = "PERMIT"
		return out
	}
	r := one(d, rules...)
	switch d.IntN(6) {
	case 0:
		r.When = append(r.When, &Condition{Key: "connection.sni", Values: []string{"x"}})
	case 1:
		r.From = append(r.From, nil)
	case 2:
		r.To = append(r.To, &To{})
	case 3:
		*r = Rule{From: []*From{}}
	default:
		d.spoilField(r)
	}
	return out
}

// spoilField has a list of a source, an operation or a condition hold what means nothing.
func (d dice) spoilField(r *Rule) {
	var parts []reflect.Value
	for _, f := range r.From {
		parts = append(parts, reflect.ValueOf(f.Source).Elem())
	}
	for _, o := range r.To {
		parts = append(parts, reflect.ValueOf(o.Operation).Elem())
	}
	for _, c := range r.When {
		parts = append(parts, reflect.ValueOf(c).Elem())
	}
	if len(parts) == 0 {
		r.To = []*To{{&Operation{Paths: []string{"/"}}}}
		return
	}
	part := one(d, parts...)
	for {
		if field := part.Field(d.IntN(part.NumField())); field.Kind() == reflect.Slice {
			field.Set(reflect.ValueOf(one(d, []string{}, []string{""}, []string{"a b"}, []string{"x:y", "80"})))
			return
		}
		if part.NumField() == 3 && d.IntN(3) == 0 {
			part.FieldByName("Key").SetString("experimental.x")
			return
		}
	}
}

// Whatever of a policy is replaced by something that is not understood: nothing that was
// refused is let in.
func TestWhatIsNotUnderstoodNeverLetsAnythingIn(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 3))}
	narrower := 0
	for range 1000 {
		policies := d.policies()
		i := d.IntN(len(policies))
		if policies[i].Spec.Action == "AUDIT" {
			continue
		}
		before := inForce(policies)
		spoilt := append(policies[:i:i], d.spoil(policies[i]))
		after := inForce(append(spoilt, policies[i+1:]...))
		for range 20 {
			r := d.request()
			was, is := before.AllowInbound(r), after.AllowInbound(r)
			if was != nil && is == nil {
				t.Fatalf("%+v was refused: %v; now it is let in\nbefore: %s\nafter: %s", r, was, written(policies[i:i+1]), written(spoilt[i:]))
			}
			if was == nil && is != nil {
				narrower++
			}
		}
	}
	if narrower < 500 {
		t.Errorf("only %d were refused for it", narrower)
	}
}
