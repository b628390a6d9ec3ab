// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Filter says which events a listener wants. The zero value is all.
type Filter struct {
	Kinds     []Kind // empty: all
	Namespace string // of either end, or of the pod
	From, To  string // NAMESPACE, NAMESPACE/WORKLOAD or NAMESPACE/POD; of connections only
}

// ParseFilter reads event=KIND,KIND, namespace=NAME, from=NAMESPACE[/NAME] and
// to=NAMESPACE[/NAME].
func ParseFilter(query url.Values) (f Filter, err error) {
	for key, values := range query {
		value := values[len(values)-1]
		switch key {
		case "event":
			for word := range strings.SplitSeq(value, ",") {
				if !slices.Contains(Kinds, Kind(word)) {
					return f, fmt.Errorf("event %q: want one or more of %s", word, kinds())
				}
				f.Kinds = append(f.Kinds, Kind(word))
			}
		case "namespace":
			f.Namespace = value
		case "from":
			f.From = value
		case "to":
			f.To = value
		default:
			return f, fmt.Errorf("%q is no filter: want event, namespace, from or to", key)
		}
	}
	return f, nil
}

func kinds() string {
	words := make([]string, len(Kinds))
	for i, k := range Kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

func (f *Filter) passes(e *Event) bool {
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind) {
		return false
	}
	if f.Namespace != "" && e.Source.Namespace != f.Namespace && e.Destination.Namespace != f.Namespace && !strings.HasPrefix(e.Pod, f.Namespace+"/") {
		return false
	}
	return e.Source.is(f.From) && e.Destination.is(f.To)
}

// is reports whether e is meant by NAMESPACE or NAMESPACE/NAME; the empty string means all.
func (e *End) is(whom string) bool {
	if whom == "" {
		return true
	}
	namespace, name, named := strings.Cut(whom, "/")
	return e.Namespace == namespace && (!named || e.Workload == name || e.Pod == name)
}
