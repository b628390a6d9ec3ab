// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"slices"
	"strings"
)

// elsewhere stands for all that a viewer must not see.
const elsewhere = "(elsewhere)"

// Sight is which namespaces a viewer sees.
type Sight struct {
	All        bool
	Namespaces map[string]bool

	domains map[string]bool // trust domains whose namespaces are the cluster's; History knows them
}

// Sees reports whether what is in a namespace has a name for the viewer.
func (s Sight) Sees(namespace string) bool { return s.All || s.Namespaces[namespace] }

// seesEnd reports whether an end of an edge lies in a namespace that the viewer sees.
// Nobody knows where the outside is.
func (s Sight) seesEnd(end string) bool {
	if s.All {
		return true
	}
	namespace := s.spaceOf(end)
	return namespace != "" && s.Sees(namespace)
}

// spaceOf is the namespace of an end, or empty. A partner's namespace of the same name is
// not the viewer's.
func (s Sight) spaceOf(end string) string {
	if id, proved := strings.CutPrefix(end, "spiffe://"); proved {
		if domain, _, _ := strings.Cut(id, "/"); !s.domains[domain] {
			return ""
		}
		return namespaceOf(end)
	}
	namespace, _, found := strings.Cut(end, "/")
	if !found {
		return ""
	}
	return namespace
}

// mayRead reports whether each object and identity that a text names is of the viewer's
// namespaces: what ztunnel and the policies say is written for those who see all.
func (s Sight) mayRead(text string) bool {
	if s.All {
		return true
	}
	before := [2]string{}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n,;()[]\"'", r) }) {
		namespace, _, object := strings.Cut(strings.TrimRight(word, ":."), "/")
		named := before == [2]string{"in", "namespace"}
		before = [2]string{before[1], word}
		switch {
		case named && !s.Sees(namespace):
			return false
		case strings.Contains(word, "spiffe://"):
			if !s.seesEnd(strings.TrimRight(word[strings.Index(word, "spiffe://"):], ":.")) {
				return false
			}
		case word == "i/o" || !object || strings.ContainsAny(namespace, ".:"): // an error's word, or a range of addresses
		case !s.Sees(namespace):
			return false
		}
	}
	return true
}

// end is the name of an end for the viewer.
func (s Sight) end(end string) string {
	if end == nobody || s.seesEnd(end) {
		return end
	}
	return elsewhere
}

func (s Sight) pair(p pair) pair { return pair{s.end(p.from), s.end(p.to)} }

func (s Sight) identities(all []string) []string {
	some := []string{}
	for _, id := range all {
		if s.seesEnd(id) {
			some = append(some, id)
		}
	}
	return some
}

// workload leaves out an object of another namespace that set the mode.
func (s Sight) workload(w Workload) Workload {
	if !s.All && !s.ofSight(w.ModeBy) {
		w.ModeBy = "another namespace"
	}
	return w
}

// ofSight reports whether an object, as KIND NAMESPACE/NAME or NAMESPACE/NAME, may be
// named; what has no namespace may.
func (s Sight) ofSight(object string) bool {
	namespace, _, found := strings.Cut(object[strings.LastIndex(object, " ")+1:], "/")
	return !found || s.Sees(namespace)
}

// refusals are those of which the viewer sees an end. Of one that is half hidden it learns
// the word alone: an error or a policy may name what is hidden.
func (s Sight) refusals(all []Refusal) []Refusal {
	some := []Refusal{}
	for _, r := range all {
		from, to := s.seesEnd(r.From) || r.From == nobody, s.seesEnd(r.To) || r.To == nobody
		for i, namespace := range r.spaces {
			if namespace != "" && !s.Sees(namespace) { // of a pod that is gone, which is an end without a name
				r.hide(i)
			}
			if r.Identities[i] != "" && !s.seesEnd(r.Identities[i]) {
				r.Identities[i] = ""
			}
		}
		switch {
		case s.All || from && to:
			if !s.ofSight(r.Policy) {
				r.Policy, r.Error = "", ""
			}
			if !s.mayRead(r.Error) {
				r.Error = ""
			}
		case from && r.From != nobody:
			r.hide(1)
			r.To, r.Service = elsewhere, ""
		case to && r.To != nobody:
			r.hide(0)
			r.From = elsewhere
		default:
			continue
		}
		if !s.All && (r.From == nobody && r.To == nobody) {
			continue
		}
		if service, _, named := strings.Cut(r.Service, "/"); named && !s.Sees(service) {
			r.Service = ""
		}
		if !s.All {
			r.Node = ""
			r.ID = strings.Join([]string{r.From, r.To, r.Service, r.Word, r.Policy}, " ")
		}
		some = append(some, r)
	}
	return unique(some)
}

// hide takes away what tells of one end.
func (r *Refusal) hide(end int) {
	r.Pods[end], r.Identities[end], r.Policy, r.Error = "", "", "", ""
	if end == 0 {
		r.Source = ""
	} else {
		r.Destination = ""
	}
}

// unique has refusals that look alike once, the last of them.
func unique(all []Refusal) []Refusal {
	at := map[string]int{}
	some := []Refusal{}
	for _, r := range all {
		if i, known := at[r.ID]; known {
			some[i].Count, some[i].Fresh = some[i].Count+r.Count, some[i].Fresh+r.Fresh
			continue
		}
		at[r.ID] = len(some)
		some = append(some, r)
	}
	return some
}

// rows leaves out Services and identities that the viewer does not see.
func (s Sight) rows(all []Row) []Row {
	some := slices.Clone(all)
	for i := range some {
		if service, _, named := strings.Cut(some[i].Service, "/"); named && !s.Sees(service) {
			some[i].Service = ""
		}
		for _, id := range []*string{&some[i].SourceIdentity, &some[i].DestinationIdentity} {
			if *id != "" && !s.seesEnd(*id) {
				*id = ""
			}
		}
	}
	return some
}
