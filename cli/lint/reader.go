// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"errors"
	"regexp"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
)

// mistaken is the object of a mistake, as named writes it.
func mistaken(m *file.Mistake) string {
	kind, name := m.Of()
	return string(kind) + " " + name.String()
}

func isPolicy(kind source.Kind) bool {
	return kind == source.KindPeerAuthentication || kind == source.KindAuthorizationPolicy
}

// In what the reader says, an unknown field stands in quotes, and others before a colon.
var (
	unknownField = regexp.MustCompile(`^unknown field "(.*)"$`)
	fieldFirst   = regexp.MustCompile(`^((?:metadata|spec)[^ :]*): (.*)$`)
)

// mistakes says what a Source would not take. What it says of policies with a Problem is
// said by these.
func (s *scene) mistakes() {
	for _, err := range s.Mistakes {
		var m *file.Mistake
		var p *source.Problem
		switch {
		case !errors.As(err, &m):
			s.tell(Finding{Code: unreadable, Text: err.Error()})
			continue
		case errors.As(err, &p):
			continue
		}
		kind, _ := m.Of()
		f := Finding{Code: notUnderstood, Object: mistaken(m), Place: m.Place, Text: m.Err.Error()}
		if at := fieldFirst.FindStringSubmatch(f.Text); at != nil {
			f.Field, f.Text = at[1], at[2]
		}
		switch unknown := unknownField.FindStringSubmatch(f.Text); {
		case !isPolicy(kind) && (s.Live || f.Field == "metadata.labels["+source.MeshLabel+"]"):
			continue
		case isPolicy(kind) && unknown != nil:
			f.Code, f.Field, f.Text = source.UnknownField, unknown[1], "not known to this version"
		case isPolicy(kind):
			f.Code = source.BadField
		}
		s.tell(f)
	}
	for _, o := range s.Objects {
		if judged, is := o.Object.(interface{ Problems() []*source.Problem }); is {
			for _, p := range judged.Problems() {
				s.say(o, p.Code, p.Field, "%s%s", p.Text, effect(o, p))
			}
		}
	}
}

// effect is what a part of a rule does that cannot be judged.
func effect(o file.Object, p *source.Problem) string {
	a, is := o.Object.(*source.AuthorizationPolicy)
	switch inRule := is && strings.HasPrefix(p.Field, "spec.rules["); {
	case !inRule || p.Code == source.StarInside:
		return ""
	case a.Spec.Action == policy.Deny.String():
		return "; it counts as true"
	}
	return "; the rule lets nobody in"
}

// remarks says what a Source says in its log. Those of policies are Problems.
func (s *scene) remarks() {
	for _, err := range s.Remarks {
		var m *file.Mistake
		if !errors.As(err, &m) {
			s.tell(Finding{Code: passedOver, Text: err.Error()})
			continue
		}
		f := Finding{Code: passedOver, Object: mistaken(m), Place: m.Place, Text: m.Err.Error()}
		kind, _ := m.Of()
		switch {
		case errors.Is(err, file.ErrNotEnforced):
			f.Code = notEnforced
		case isPolicy(kind), s.Live:
			continue
		}
		s.tell(f)
	}
}

// twice says which objects stand in two places.
func (s *scene) twice() {
	first := map[string]string{}
	for _, o := range s.Objects {
		if place, there := first[named(o)]; there {
			s.say(o, twice, "", "is also in %s", place)
			continue
		}
		first[named(o)] = o.Place
	}
}

// labels says whose label means nothing.
func (s *scene) labels(o file.Object) {
	if kind := source.KindOf(o.Object); kind != source.KindNamespace && kind != source.KindPod {
		return
	}
	if value, strange := source.StrangeLabel(o.GetLabels()); strange {
		s.say(o, meshLabel, "metadata.labels["+source.MeshLabel+"]", "%q: not %s or %s", value, source.MeshEnabled, source.MeshDisabled)
	}
}
