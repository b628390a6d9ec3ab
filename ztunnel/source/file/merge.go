// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// merge puts the files' objects together. Each may stand once: of two, neither
// would be the one that somebody meant.
func merge(files []contents) (source.Objects, []error) {
	var out source.Objects
	var errs []error
	seen := map[string]entry{}
	for _, file := range files {
		errs = append(errs, file.errs...)
		for _, e := range file.entries {
			if first, twice := seen[e.name()]; twice {
				errs = append(errs, fmt.Errorf("%v: %s: is also in %v", e.place, e.name(), first.place))
				continue
			}
			seen[e.name()] = e
			if pod, ok := e.object.(*corev1.Pod); ok {
				uid := "uid " + string(pod.UID) // no kind has a name like this
				if first, twice := seen[uid]; twice {
					errs = append(errs, fmt.Errorf("%v: %s: metadata.uid: %q: is also that of %s in %v",
						e.place, e.name(), pod.UID, first.name(), first.place))
					continue
				}
				seen[uid] = e
			}
			add(&out, e.object)
		}
	}
	return out, errs
}

func add(out *source.Objects, o object) {
	switch o := o.(type) {
	case *corev1.Namespace:
		out.Namespaces = append(out.Namespaces, o)
	case *corev1.Node:
		out.Nodes = append(out.Nodes, o)
	case *corev1.Pod:
		out.Pods = append(out.Pods, o)
	case *corev1.Service:
		out.Services = append(out.Services, o)
	case *nodev1.RuntimeClass:
		out.RuntimeClasses = append(out.RuntimeClasses, o)
	case *discoveryv1.EndpointSlice:
		out.EndpointSlices = append(out.EndpointSlices, o)
	case *source.PeerAuthentication:
		out.PeerAuthentications = append(out.PeerAuthentications, o)
	case *source.AuthorizationPolicy:
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, o)
	}
}

// maxReported bounds an error's length when a whole directory is wrong.
const maxReported = 20

// report is what Run found wrong, one line each.
type report []error

func (r report) Error() string {
	var lines []string
	for i, err := range r {
		if i == maxReported {
			lines = append(lines, fmt.Sprintf("and %d more", len(r)-i))
			break
		}
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

func (r report) Unwrap() []error { return r }
